"""The declarations of the shop's effects, and rules that hold for both effects."""

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3

from examples.shop.effects import capture_payment, find_capture, find_email, send_email
from examples.shop.effects import captures as captures_module
from examples.shop.effects import emails as emails_module
from examples.shop.effects.addresses import MAIL_LOG_URL, PROVIDER_URL, AddressMissing
from examples.shop.effects.captures import provider_key
from examples.shop.effects.looking import CannotKnow
from sluice.tasks.api import MARK, EffectCall, JsonObject, NotSent, Refused
from tests.harness.providers import Providers
from tests.unit.examples import calling_outside
from tests.unit.examples.calling_outside import (
    EffectFunction,
    answering,
    capture_call,
    each_effect,
    email_call,
    listener,
    wait_for_the_end,
)

impatient = calling_outside.impatient
outside = calling_outside.outside
started = calling_outside.started


def test_the_declarations_match_the_providers() -> None:
    [capture], [email] = getattr(capture_payment, MARK), getattr(send_email, MARK)
    assert (capture.on_unknown, email.on_unknown) == ("retry", "ask")
    assert capture.key_lifetime_seconds < 24 * 3600
    assert capture.timeout_seconds > captures_module.CONNECT_SECONDS + captures_module.READ_SECONDS
    assert email.timeout_seconds >= 4 * emails_module.TIMEOUT_SECONDS


def test_a_key_of_any_characters_is_encoded_for_a_header_and_remains_unique() -> None:
    plain = "capture_payment:pay-1/a#b?c=d"
    keys = [plain, "ä", "%C3%A4", "a b", "a+b", "a%20b", '"a b"', "a\nb", "字"]
    carried = [provider_key(key) for key in keys]
    assert carried[0] == plain
    assert len(set(carried)) == len(keys)
    assert all(text.isascii() and text.isprintable() and " " not in text for text in carried)


@each_effect
def test_a_missing_address_means_not_sent(
    monkeypatch: pytest.MonkeyPatch, effect: EffectFunction, call: EffectCall, name: str, scheme: str
) -> None:
    monkeypatch.delenv(name, raising=False)
    with pytest.raises(NotSent, match=f"{name} is not set"):
        effect(call)
    for wrong in ("127.0.0.1:80", f"{scheme}://127.0.0.1", "ftp://127.0.0.1:21", f"{scheme}://127.0.0.1:x"):
        monkeypatch.setenv(name, wrong)
        with pytest.raises(NotSent, match="set a URL such as"):
            effect(call)


@each_effect
def test_a_refused_connection_means_not_sent(
    monkeypatch: pytest.MonkeyPatch, effect: EffectFunction, call: EffectCall, name: str, scheme: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv(name, f"{scheme}://127.0.0.1:{port}")
    with pytest.raises(NotSent, match="refused"):
        effect(call)


@each_effect
def test_an_unknown_host_name_means_not_sent(
    monkeypatch: pytest.MonkeyPatch, effect: EffectFunction, call: EffectCall, name: str, scheme: str
) -> None:
    def no_such_name(*arguments: Any, **named: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    monkeypatch.setenv(name, f"{scheme}://provider.invalid:80")
    with pytest.raises(NotSent, match=r"not known|resolve"):
        effect(call)


@each_effect
@pytest.mark.usefixtures("impatient")
def test_a_connection_time_out_means_not_sent(
    monkeypatch: pytest.MonkeyPatch, effect: EffectFunction, call: EffectCall, name: str, scheme: str
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [
            socket.socket() for _ in range(4)
        ]  # the kernel answers no connection while the queue of the socket is full
        for other in waiting:
            other.setblocking(False)
            other.connect_ex(address)
        monkeypatch.setenv(name, f"{scheme}://127.0.0.1:{address[1]}")
        with pytest.raises(NotSent, match="timed out"):
            effect(call)
        for other in waiting:
            other.close()


@each_effect
def test_invalid_args_are_refused(
    outside: Providers, effect: EffectFunction, call: EffectCall, name: str, scheme: str
) -> None:
    with pytest.raises(Refused, match="args of"):
        effect(EffectCall(call.key, {}, attempt=1))


@pytest.mark.usefixtures("impatient")
def test_a_call_without_an_answer_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    with listener(wait_for_the_end) as port:
        monkeypatch.setenv(PROVIDER_URL, f"http://127.0.0.1:{port}")
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            capture_payment(capture_call("pay-x"))


@pytest.mark.parametrize(
    "find", [lambda: find_capture(capture_call("p")), lambda: find_email(email_call("o"))]
)
def test_reconciling_without_an_answer_of_the_provider_raises(
    monkeypatch: pytest.MonkeyPatch, find: Callable[[], JsonObject | None]
) -> None:
    for name in (PROVIDER_URL, MAIL_LOG_URL):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(AddressMissing):
        find()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for name in (PROVIDER_URL, MAIL_LOG_URL):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        find()
    with listener(answering(b"HTTP/1.0 500 Broken\r\nContent-Length: 0\r\n\r\n")) as port:
        for name in (PROVIDER_URL, MAIL_LOG_URL):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        with pytest.raises(CannotKnow, match="500"):
            find()


def test_reconciling_finds_the_calls_that_were_made_before_kill_9(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Providers(tmp_path) as providers:
        for name, value in providers.environ().items():
            monkeypatch.setenv(name, value)
        captured, sent = capture_payment(capture_call("pay-1")), send_email(email_call("order-1"))
        for server in (providers.payments, providers.mail):
            server.process.kill()
        with pytest.raises(NotSent):
            capture_payment(capture_call("pay-2"))
        with pytest.raises(NotSent):
            send_email(email_call("order-2"))
        for server in (providers.payments, providers.mail):
            server.start()
        assert capture_payment(capture_call("pay-1")) == find_capture(capture_call("pay-1")) == captured
        found = find_email(email_call("order-1"))
        assert found is not None
        assert found["message_id"] == sent["message_id"]
