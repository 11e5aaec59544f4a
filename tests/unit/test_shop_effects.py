"""The shop's calls: each way they can go wrong has one class, and reconciling finds what really happened."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import urllib3

from ops.trial.providers import Providers
from shop.effects import capture_payment, find_capture, find_email, send_email
from shop.effects import captures as captures_module
from shop.effects import emails as emails_module
from shop.effects.addresses import MAIL_LOG_URL, PROVIDER_URL, SMTP_URL, AddressMissing
from shop.effects.captures import NOT_FINAL, NotAnswered, provider_key
from shop.effects.looking import CannotKnow
from shop.outside.faults import Fault
from shop.provider.book import CARD_LIMIT_CENTS
from tasks.api import MARK, EffectCall, JsonObject, NotSent, Refused

IMPATIENT_SECONDS = 0.2
EffectFunction = Callable[[EffectCall], JsonObject]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Providers]:
    with Providers(tmp_path_factory.mktemp("providers")) as providers:
        yield providers


@pytest.fixture
def outside(started: Providers, monkeypatch: pytest.MonkeyPatch) -> Providers:
    for name, value in started.environ().items():
        monkeypatch.setenv(name, value)
    started.payments.set_faults()
    started.mail.set_faults()
    return started


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures_module, "CONNECT_SECONDS", IMPATIENT_SECONDS)
    monkeypatch.setattr(captures_module, "READ_SECONDS", IMPATIENT_SECONDS)
    monkeypatch.setattr(emails_module, "TIMEOUT_SECONDS", IMPATIENT_SECONDS)


def capture_call(payment: str, amount_cents: int = 500) -> EffectCall:
    return EffectCall(
        f"capture_payment:{payment}", {"reference": payment, "amount_cents": amount_cents}, attempt=1
    )


def email_call(order: str, to: str = "ann@example.org") -> EffectCall:
    return EffectCall(
        f"send_email:order-confirmation:{order}", {"to": to, "template": "order-confirmation"}, attempt=1
    )


def captures_of(outside: Providers, payment: str) -> int:
    return sum(capture.reference == payment for capture in outside.payments.captures())


def emails_of(outside: Providers, call: EffectCall) -> int:
    return sum(message.key == call.key for message in outside.mail.messages())


CALLS: list[tuple[EffectFunction, EffectCall, str, str]] = [
    (capture_payment, capture_call("pay-0"), PROVIDER_URL, "http"),
    (send_email, email_call("order-0"), SMTP_URL, "smtp"),
]
each_effect = pytest.mark.parametrize(("effect", "call", "name", "scheme"), CALLS, ids=["capture", "email"])


@contextmanager
def listener(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server of one connection, which `talk` deals with."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        thread = threading.Thread(target=_serve, args=(server, talk), daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


def _serve(server: socket.socket, talk: Callable[[socket.socket], None]) -> None:
    connection, _ = server.accept()
    with connection:
        talk(connection)


def wait_for_the_end(connection: socket.socket) -> None:
    connection.settimeout(10)
    while connection.recv(4096):
        pass


def answering(answer: bytes) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(answer)

    return talk


# Declarations


def test_what_is_declared_fits_what_the_providers_do() -> None:
    [capture], [email] = getattr(capture_payment, MARK), getattr(send_email, MARK)
    assert (capture.on_unknown, email.on_unknown) == ("retry", "ask")
    assert capture.key_lifetime_seconds < 24 * 3600
    assert capture.timeout_seconds > captures_module.CONNECT_SECONDS + captures_module.READ_SECONDS
    assert email.timeout_seconds >= 4 * emails_module.TIMEOUT_SECONDS


def test_a_key_of_any_characters_fits_a_header_and_stays_distinct() -> None:
    plain = "capture_payment:pay-1/a#b?c=d"
    keys = [plain, "ä", "%C3%A4", "a b", "a+b", "a%20b", '"a b"', "a\nb", "字"]
    carried = [provider_key(key) for key in keys]
    assert carried[0] == plain
    assert len(set(carried)) == len(keys)
    assert all(text.isascii() and text.isprintable() and " " not in text for text in carried)


# Captures


def test_a_capture_is_made_once_per_key(outside: Providers) -> None:
    call = capture_call("pay-once")
    assert find_capture(call) is None
    first = capture_payment(call)
    assert first["reference"] == "pay-once"
    assert first["amount_cents"] == 500
    assert capture_payment(call) == first == find_capture(call)
    assert captures_of(outside, "pay-once") == 1


def test_a_declined_card_and_an_amount_that_is_none_are_refused(outside: Providers) -> None:
    with pytest.raises(Refused, match=r"402.*card_declined"):
        capture_payment(capture_call("pay-dear", CARD_LIMIT_CENTS + 1))
    with pytest.raises(Refused, match=r"422.*invalid"):
        capture_payment(capture_call("pay-nothing", 0))
    assert find_capture(capture_call("pay-dear", CARD_LIMIT_CENTS + 1)) is None


def test_a_key_that_came_with_another_amount_is_refused(outside: Providers) -> None:
    capture_payment(capture_call("pay-two", 1))
    with pytest.raises(Refused, match=r"422.*key_reused"):
        capture_payment(capture_call("pay-two", 2))


@pytest.mark.parametrize(("moment", "captures"), [("before", 0), ("during", 0), ("after", 1)])
def test_a_dropped_capture_is_unknown_and_reconciling_knows(
    outside: Providers, moment: Any, captures: int
) -> None:
    call = capture_call(f"pay-drop-{moment}")
    outside.payments.set_faults(Fault(moment, "drop", 1))
    with pytest.raises(urllib3.exceptions.ProtocolError):
        capture_payment(call)
    assert (find_capture(call) is not None) == (captures == 1)
    capture_payment(call)
    assert captures_of(outside, f"pay-drop-{moment}") == 1


def test_a_stored_failure_is_unknown_and_reconciling_knows(outside: Providers) -> None:
    outside.payments.set_faults(
        Fault("after", "error", 1, matching="pay-made"), Fault("during", "error", 1, matching="pay-not-made")
    )
    for payment in ("pay-made", "pay-not-made"):
        for _ in range(2):
            with pytest.raises(NotAnswered, match="500"):
                capture_payment(capture_call(payment))
    assert find_capture(capture_call("pay-made")) is not None
    assert find_capture(capture_call("pay-not-made")) is None


@pytest.mark.usefixtures("impatient")
def test_a_capture_that_is_late_is_unknown_and_while_in_process_nobody_can_know(outside: Providers) -> None:
    call = capture_call("pay-late")
    outside.payments.set_faults(Fault("during", "delay", 1, seconds=1))
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        capture_payment(call)
    with pytest.raises(NotAnswered, match="409"):
        capture_payment(call)
    with pytest.raises(CannotKnow, match="in process"):
        find_capture(call)


@pytest.mark.parametrize("status", sorted({*NOT_FINAL, 500, 502, 503, 504}))
def test_answers_that_settle_nothing_are_unknown(outside: Providers, status: int) -> None:
    call = capture_call(f"pay-{status}")
    outside.payments.set_faults(Fault("before", "error", 1, status=status))
    with pytest.raises(NotAnswered, match=str(status)):
        capture_payment(call)
    assert capture_payment(call) == find_capture(call)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_other_answers_of_the_4xx_are_final(outside: Providers, status: int) -> None:
    outside.payments.set_faults(Fault("before", "error", 1, status=status))
    with pytest.raises(Refused, match=str(status)):
        capture_payment(capture_call(f"pay-{status}"))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 307 Elsewhere\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 201 Created\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.0 201 Created\r\nContent-Length: 1\r\n\r\n{",
        b"garbage\r\n\r\n",
    ],
    ids=["moved", "cut short", "not JSON", "not HTTP"],
)
def test_an_answer_that_is_not_understood_is_unknown(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    with listener(answering(answer)) as port:
        monkeypatch.setenv(PROVIDER_URL, f"http://127.0.0.1:{port}")
        with pytest.raises(Exception) as unknown:  # noqa: PT011 - any class but these two is unknown
            capture_payment(capture_call("pay-x"))
    assert not isinstance(unknown.value, NotSent | Refused)


# Both


@each_effect
def test_without_an_address_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch, effect: EffectFunction, call: EffectCall, name: str, scheme: str
) -> None:
    monkeypatch.delenv(name, raising=False)
    with pytest.raises(NotSent, match=f"{name} is not set"):
        effect(call)
    for wrong in ("127.0.0.1:80", f"{scheme}://127.0.0.1", "ftp://127.0.0.1:21", f"{scheme}://127.0.0.1:x"):
        monkeypatch.setenv(name, wrong)
        with pytest.raises(NotSent, match="it looks like"):
            effect(call)


@each_effect
def test_where_nobody_listens_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch, effect: EffectFunction, call: EffectCall, name: str, scheme: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv(name, f"{scheme}://127.0.0.1:{port}")
    with pytest.raises(NotSent, match="refused"):
        effect(call)


@each_effect
def test_a_name_that_does_not_exist_means_not_sent(
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
def test_a_connection_that_does_not_come_about_in_time_means_not_sent(
    monkeypatch: pytest.MonkeyPatch, effect: EffectFunction, call: EffectCall, name: str, scheme: str
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        address = full.getsockname()
        waiting = [socket.socket() for _ in range(4)]  # the kernel answers no more once its queue is full
        for other in waiting:
            other.setblocking(False)
            other.connect_ex(address)
        monkeypatch.setenv(name, f"{scheme}://127.0.0.1:{address[1]}")
        with pytest.raises(NotSent, match="timed out"):
            effect(call)
        for other in waiting:
            other.close()


@each_effect
def test_args_that_make_no_call_are_refused(
    outside: Providers, effect: EffectFunction, call: EffectCall, name: str, scheme: str
) -> None:
    with pytest.raises(Refused, match="args of"):
        effect(EffectCall(call.key, {}, attempt=1))


@pytest.mark.usefixtures("impatient")
def test_a_provider_that_accepts_and_never_answers_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    with listener(wait_for_the_end) as port:
        monkeypatch.setenv(PROVIDER_URL, f"http://127.0.0.1:{port}")
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            capture_payment(capture_call("pay-x"))


@pytest.mark.parametrize(
    "find", [lambda: find_capture(capture_call("p")), lambda: find_email(email_call("o"))]
)
def test_who_cannot_be_asked_cannot_be_known(
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


# E-mails


def test_an_email_is_sent_each_time_and_found(outside: Providers) -> None:
    call = email_call("order-sent")
    assert find_email(call) is None
    sent = send_email(call)
    found = find_email(call)
    assert found is not None
    assert found["message_id"] == sent["message_id"]
    assert (found["to"], found["subject"], found["key"]) == (["ann@example.org"], "Your order", call.key)
    send_email(call)
    assert emails_of(outside, call) == 2


def test_a_long_key_of_any_characters_is_found(outside: Providers) -> None:
    call = email_call("ä" + "x" * 255)
    send_email(call)
    found = find_email(call)
    assert found is not None
    assert found["key"] == provider_key(call.key)


def test_a_refused_recipient_is_refused(outside: Providers) -> None:
    call = email_call("order-refused", "bob@refused.example")
    with pytest.raises(Refused, match="550"):
        send_email(call)
    assert find_email(call) is None


@pytest.mark.parametrize("to", ["a@example.org\nBcc: b@example.org", "ä@example.org"])
def test_a_recipient_that_no_message_can_bear_is_refused(outside: Providers, to: str) -> None:
    with pytest.raises(Refused, match="args of"):
        send_email(email_call("order-odd", to))


@pytest.mark.parametrize(("status", "error"), [(451, NotSent), (421, NotSent), (554, Refused)])
def test_the_reply_to_the_message_decides(outside: Providers, status: int, error: type[Exception]) -> None:
    call = email_call(f"order-{status}")
    outside.mail.set_faults(Fault("before", "error", 1, status=status))
    with pytest.raises(error, match=str(status)):
        send_email(call)
    assert find_email(call) is None


@pytest.mark.parametrize(("moment", "accepted"), [("before", False), ("after", True)])
def test_an_email_dropped_after_data_is_unknown_and_reconciling_knows(
    outside: Providers, moment: Any, accepted: bool
) -> None:
    call = email_call(f"order-drop-{moment}")
    outside.mail.set_faults(Fault(moment, "drop", 1))
    with pytest.raises(OSError) as unknown:  # noqa: PT011 - smtplib's and the socket's
        send_email(call)
    assert not isinstance(unknown.value, NotSent | Refused)
    assert (find_email(call) is not None) == accepted


@pytest.mark.usefixtures("impatient")
def test_an_email_without_a_reply_is_unknown_and_while_in_process_nobody_can_know(outside: Providers) -> None:
    call = email_call("order-late")
    outside.mail.set_faults(Fault("before", "delay", 1, seconds=1))
    with pytest.raises(OSError) as unknown:  # noqa: PT011 - smtplib's and the socket's
        send_email(call)
    assert not isinstance(unknown.value, NotSent | Refused)
    with pytest.raises(CannotKnow, match="in process"):
        find_email(call)


TALKS = [
    # replies, one for each line of the client after the greeting; then the connection ends
    ("no greeting", [], NotSent),
    ("a greeting that refuses", [b"554 no service\r\n"], NotSent),
    ("ends after the greeting", [b"220 mail\r\n"], NotSent),
    ("ends after EHLO", [b"220 mail\r\n", b"250 mail\r\n"], NotSent),
    ("the sender later", [b"220 mail\r\n", b"250 mail\r\n", b"451 later\r\n"], NotSent),
    ("the sender never", [b"220 mail\r\n", b"250 mail\r\n", b"550 no\r\n"], Refused),
    ("ends after RCPT", [b"220 mail\r\n", b"250 mail\r\n", b"250 ok\r\n"], NotSent),
    (
        "DATA later",
        [b"220 mail\r\n", b"250 mail\r\n", b"250 ok\r\n", b"250 ok\r\n", b"450 later\r\n"],
        NotSent,
    ),
    ("DATA never", [b"220 mail\r\n", b"250 mail\r\n", b"250 ok\r\n", b"250 ok\r\n", b"554 no\r\n"], Refused),
    (
        "ends after DATA",
        [b"220 mail\r\n", b"250 mail\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"],
        None,
    ),
]


@pytest.mark.parametrize(("replies", "error"), [t[1:] for t in TALKS], ids=[t[0] for t in TALKS])
def test_how_far_the_talk_came_decides(
    monkeypatch: pytest.MonkeyPatch, replies: list[bytes], error: type[Exception] | None
) -> None:
    def talk(connection: socket.socket) -> None:
        for reply in replies:
            connection.sendall(reply)
            connection.recv(65_536)

    with listener(talk) as port:
        monkeypatch.setenv(SMTP_URL, f"smtp://127.0.0.1:{port}")
        with pytest.raises(error or OSError) as raised:
            send_email(email_call("order-x"))
    if error is None:
        assert not isinstance(raised.value, NotSent | Refused)


def test_a_goodbye_that_goes_wrong_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def talk(connection: socket.socket) -> None:
        for reply in (b"220 mail", b"250 mail", b"250 ok", b"250 ok", b"354 go", b"250 accepted"):
            connection.sendall(reply + b"\r\n")
            if reply != b"250 accepted":
                received = connection.recv(65_536)
                while reply.startswith(b"354") and not received.endswith(b"\r\n.\r\n"):
                    received += connection.recv(65_536)

    with listener(talk) as port:
        monkeypatch.setenv(SMTP_URL, f"smtp://127.0.0.1:{port}")
        assert send_email(email_call("order-x"))["message_id"].endswith("@shop.example.org>")


def test_both_find_after_kill_9_what_they_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
