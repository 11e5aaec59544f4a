"""The mail server, as a real process: the messages that it accepts, its faults, and kill -9."""

import smtplib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from examples.shop.outside.faults import Fault
from sluice.stack.patience import patient
from tests.harness.providers import MailServer
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailServer]:
    server = MailServer(tmp_path_factory.mktemp("mail"))
    server.start()
    yield server
    server.end()


@pytest.fixture
def mail(shared: MailServer) -> MailServer:
    shared.set_faults()
    return shared


def send(mail: MailServer, name: str, *, to: str = "ann@example.org", seconds: float = 60) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "shop@example.org", to, f"About {name}"
    message["Message-ID"], message["X-Idempotency-Key"] = f"<{name}@test>", f"key:{name}"
    message.set_content("Text.")
    with smtplib.SMTP("127.0.0.1", mail.port(), local_hostname="test", timeout=seconds) as server:
        server.send_message(message)


def accepted(mail: MailServer, name: str) -> int:
    """Returns how often the server accepted the message. Fails if answer and journal of the server differ."""
    answer = mail.control("GET", f"/messages?message_id=%3C{name}@test%3E")
    assert not answer["in_process"]
    count = sum(message.message_id == f"<{name}@test>" for message in mail.messages())
    assert len(answer["messages"]) == count
    return count


def test_an_accepted_message_is_one_line_of_the_journal(mail: MailServer) -> None:
    send(mail, "plain")
    [message] = [m for m in mail.messages() if m.message_id == "<plain@test>"]
    assert (message.to, message.subject, message.key) == (("ann@example.org",), "About plain", "key:plain")
    assert message.at.tzinfo is not None


def test_a_repeated_message_is_accepted_as_a_second_message(mail: MailServer) -> None:
    for _ in range(2):
        send(mail, "twice")
    assert accepted(mail, "twice") == 2


def test_a_recipient_of_the_refusing_domain_is_refused(mail: MailServer) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        send(mail, "refused", to="bob@refused.example")
    assert refused.value.recipients["bob@refused.example"][0] == 550
    assert accepted(mail, "refused") == 0


@pytest.mark.parametrize(("status", "reply"), [(None, 451), (452, 452), (554, 554)])
def test_a_message_that_is_not_accepted_is_not_written(
    mail: MailServer, status: int | None, reply: int
) -> None:
    mail.set_faults(Fault("before", "error", 1, status=status))
    with pytest.raises(smtplib.SMTPDataError) as refused:
        send(mail, f"error-{reply}")
    assert refused.value.smtp_code == reply
    assert accepted(mail, f"error-{reply}") == 0


@pytest.mark.parametrize(("moment", "count"), [("before", 0), ("after", 1)])
def test_if_the_connection_drops_only_an_accepted_message_counts(
    mail: MailServer, moment: Any, count: int
) -> None:
    mail.set_faults(Fault(moment, "drop", 1, matching="ann@example.org"))
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
        send(mail, f"drop-{moment}")
    assert accepted(mail, f"drop-{moment}") == count
    send(mail, f"drop-{moment}")
    assert accepted(mail, f"drop-{moment}") == count + 1


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_message_is_accepted_even_if_the_client_closes_the_connection(
    mail: MailServer, moment: Any
) -> None:
    name = f"late-{moment}"
    mail.set_faults(Fault(moment, "delay", 1, seconds=patient(1.0)))
    with pytest.raises(OSError, match=r"timed out|unexpectedly closed"):
        send(mail, name, seconds=patient(0.3))  # the timeout of each answer; only the last answer is late
    if moment == "before":
        assert mail.control("GET", f"/messages?message_id=%3C{name}@test%3E")["in_process"]
    wait_until(
        lambda: any(m.message_id == f"<{name}@test>" for m in mail.messages()),
        timeout_seconds=5,
        what="the message is accepted",
    )


def test_a_fault_at_an_unknown_moment_is_refused(mail: MailServer) -> None:
    with pytest.raises(ValueError, match="no moment 'during'"):
        mail.set_faults(Fault("during", "drop", 1))
    with pytest.raises(ValueError, match="404"):
        mail.control("GET", "/elsewhere")


def test_after_kill_9_the_server_has_the_same_messages(tmp_path: Path) -> None:
    mail = MailServer(tmp_path)
    mail.start()
    try:
        send(mail, "kept")
        mail.set_faults(Fault("before", "delay", 1, seconds=30))
        with ThreadPoolExecutor() as pool:
            unanswered = pool.submit(send, mail, "lost")
            wait_until(lambda: not mail.faults_left(), timeout_seconds=5, what="a message is in process")
            mail.process.kill()
            with pytest.raises(smtplib.SMTPServerDisconnected):
                unanswered.result()
        mail.start()
        assert accepted(mail, "kept") == 1
        assert accepted(mail, "lost") == 0
    finally:
        mail.end()
