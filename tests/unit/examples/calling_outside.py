"""Fixtures for the shop's calls to its providers, and servers with scripted answers."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from examples.shop.effects import capture_payment, send_email
from examples.shop.effects import captures as captures_module
from examples.shop.effects import emails as emails_module
from examples.shop.effects.addresses import PROVIDER_URL, SMTP_URL
from sluice.tasks.api import EffectCall, JsonObject
from tests.harness.providers import Providers

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
    """Starts a server that accepts one connection and passes it to `talk`; yields its port."""
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
