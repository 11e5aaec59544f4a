"""E-mails by SMTP: the last reply determines the result, and reconciling finds accepted messages."""

import socket
from typing import Any

import pytest

from examples.shop.effects import find_email, send_email
from examples.shop.effects.addresses import SMTP_URL
from examples.shop.effects.captures import provider_key
from examples.shop.effects.looking import CannotKnow
from examples.shop.outside.faults import Fault
from sluice.tasks.api import NotSent, Refused
from tests.harness.providers import Providers
from tests.unit.examples import calling_outside
from tests.unit.examples.calling_outside import email_call, emails_of, listener

impatient = calling_outside.impatient
outside = calling_outside.outside
started = calling_outside.started


def test_an_email_is_sent_at_each_call_and_found_by_reconciling(outside: Providers) -> None:
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
def test_an_invalid_recipient_address_is_refused(outside: Providers, to: str) -> None:
    with pytest.raises(Refused, match="args of"):
        send_email(email_call("order-odd", to))


@pytest.mark.parametrize(("status", "error"), [(451, NotSent), (421, NotSent), (554, Refused)])
def test_the_reply_to_the_message_determines_the_error(
    outside: Providers, status: int, error: type[Exception]
) -> None:
    call = email_call(f"order-{status}")
    outside.mail.set_faults(Fault("before", "error", 1, status=status))
    with pytest.raises(error, match=str(status)):
        send_email(call)
    assert find_email(call) is None


@pytest.mark.parametrize(("moment", "accepted"), [("before", False), ("after", True)])
def test_an_email_dropped_after_data_is_unknown_and_reconciling_finds_its_result(
    outside: Providers, moment: Any, accepted: bool
) -> None:
    call = email_call(f"order-drop-{moment}")
    outside.mail.set_faults(Fault(moment, "drop", 1))
    with pytest.raises(OSError) as unknown:  # noqa: PT011 - smtplib's and the socket's
        send_email(call)
    assert not isinstance(unknown.value, NotSent | Refused)
    assert (find_email(call) is not None) == accepted


@pytest.mark.usefixtures("impatient")
def test_an_email_without_a_reply_is_unknown_and_has_no_result_while_in_process(
    outside: Providers,
) -> None:
    call = email_call("order-late")
    outside.mail.set_faults(Fault("before", "delay", 1, seconds=1))
    with pytest.raises(OSError) as unknown:  # noqa: PT011 - smtplib's and the socket's
        send_email(call)
    assert not isinstance(unknown.value, NotSent | Refused)
    with pytest.raises(CannotKnow, match="in process"):
        find_email(call)


TALKS = [
    # (case, replies: the greeting, and one for each line of the client, the error). Then the connection ends.
    ("no greeting", [], NotSent),
    ("the greeting is an error", [b"554 no service\r\n"], NotSent),
    ("ends after the greeting", [b"220 mail\r\n"], NotSent),
    ("ends after EHLO", [b"220 mail\r\n", b"250 mail\r\n"], NotSent),
    ("the sender is refused temporarily", [b"220 mail\r\n", b"250 mail\r\n", b"451 later\r\n"], NotSent),
    ("the sender is refused permanently", [b"220 mail\r\n", b"250 mail\r\n", b"550 no\r\n"], Refused),
    ("ends after RCPT", [b"220 mail\r\n", b"250 mail\r\n", b"250 ok\r\n"], NotSent),
    (
        "DATA is refused temporarily",
        [b"220 mail\r\n", b"250 mail\r\n", b"250 ok\r\n", b"250 ok\r\n", b"450 later\r\n"],
        NotSent,
    ),
    (
        "DATA is refused permanently",
        [b"220 mail\r\n", b"250 mail\r\n", b"250 ok\r\n", b"250 ok\r\n", b"554 no\r\n"],
        Refused,
    ),
    (
        "ends after DATA",
        [b"220 mail\r\n", b"250 mail\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n"],
        None,
    ),
]


@pytest.mark.parametrize(("replies", "error"), [t[1:] for t in TALKS], ids=[t[0] for t in TALKS])
def test_the_last_reply_before_the_connection_ends_determines_the_error(
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


def test_a_failed_quit_after_an_accepted_message_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
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
