"""Scenario 7: sends a confirmation by e-mail. SMTP has no idempotency key, so an operator resolves a call
with an unknown outcome."""

import contextlib
import smtplib
from email.message import EmailMessage
from email.policy import SMTP
from hashlib import blake2b
from typing import Annotated, Literal

import msgspec

from examples.shop.effects.addresses import MAIL_LOG_URL, SMTP_URL, AddressMissing, read_address
from examples.shop.effects.captures import provider_key
from examples.shop.effects.looking import look_up
from sluice import EffectCall, JsonObject, NotSent, Refused, effect

TIMEOUT_SECONDS = 2.5  # for the connection and for each reply; the effect's timeout is four times as long
HOSTNAME = "shop.example.org"  # fixed, because smtplib would query a name server without a timeout
SENDER = "shop@example.org"
SUBJECTS = {"order-confirmation": "Your order"}
UNFOLDED = SMTP.clone(max_line_length=998)  # the maximum of RFC 5322; the default of 78 splits long keys


class EmailArgs(msgspec.Struct, frozen=True):
    """The args of a `send_email` call."""

    to: Annotated[str, msgspec.Meta(pattern=r"\A[!-~]+@[!-~]+\Z")]  # ASCII: not every server accepts more
    template: Literal["order-confirmation"]


class NotAcknowledged(Exception):
    """Raised if the reply to a message is not 2yz, 4yz or 5yz. The server may have accepted the message."""


def find_email(call: EffectCall) -> JsonObject | None:
    """Returns the message with this call's key from the mail log; None if no such message was
    accepted and none is in process.

    Raises an error if the mail log cannot answer this now. Only reads.
    """
    return look_up(MAIL_LOG_URL, "/messages", {"message_id": message_id(call.key)}, "messages")


@effect("send_email", on_unknown="ask", timeout_seconds=10, attempts=8, reconcile=find_email)
def send_email(call: EffectCall) -> JsonObject:
    """Sends one message. Not idempotent. Returns the message id, with which `find_email` finds the message.

    Raises NotSent if the message was certainly not sent: without a connection, if the connection ends before
    DATA, and for every 4yz reply, because RFC 5321 §4.2.1 states that the action did not occur. Raises
    Refused for a 5yz reply. Every other error means an unknown outcome: the message has no valid reply.
    """
    try:
        host, port = read_address(SMTP_URL)
        message = write_message(call)
    except AddressMissing as error:
        raise NotSent(str(error)) from error
    except msgspec.ValidationError as error:
        raise Refused(f"args of send_email: {error}") from error
    try:
        server = smtplib.SMTP(host, port, local_hostname=HOSTNAME, timeout=TIMEOUT_SECONDS)
    except OSError as error:  # also smtplib's own errors, such as a wrong greeting
        raise NotSent(f"no mail server at {host}:{port}: {error}") from error
    try:
        _introduce(server, message)
        _hand_over(server, message)
    finally:
        _leave(server)
    return {"message_id": message["Message-ID"]}


def message_id(key: str) -> str:
    """Returns the Message-ID, which is the same for all attempts of a call. It is a hash, because
    a key may contain any character.
    """
    return f"<{blake2b(key.encode(), digest_size=16).hexdigest()}@{HOSTNAME}>"


def write_message(call: EffectCall) -> EmailMessage:
    """Returns the message of a call. Raises ValidationError for wrong args."""
    args = msgspec.convert(call.args, EmailArgs)
    message = EmailMessage(policy=UNFOLDED)
    message["From"] = SENDER
    message["To"] = args.to
    message["Subject"] = SUBJECTS[args.template]
    message["Message-ID"] = message_id(call.key)
    message["X-Idempotency-Key"] = provider_key(call.key)
    message.set_content("Thank you.")
    return message


def _introduce(server: smtplib.SMTP, message: EmailMessage) -> None:
    """Sends the sender and the recipient, but no part of the message."""
    try:
        server.ehlo_or_helo_if_needed()
        _judge(*server.mail(SENDER))
        _judge(*server.rcpt(str(message["To"])))
    except OSError as error:
        raise NotSent(f"the mail server closed the connection before the message: {error}") from error


def _hand_over(server: smtplib.SMTP, message: EmailMessage) -> None:
    try:
        code, text = server.data(message.as_bytes())
    except smtplib.SMTPDataError as error:  # the command was not accepted, so the message was not sent
        code, text = error.smtp_code, error.smtp_error if isinstance(error.smtp_error, bytes) else b""
    _judge(code, text)


def _judge(code: int, text: bytes) -> None:
    reply = f"{code} {text.decode(errors='replace')}"
    match code // 100:
        case 2:
            return
        case 4:
            raise NotSent(reply)
        case 5:
            raise Refused(reply)
        case _:
            raise NotAcknowledged(reply)


def _leave(server: smtplib.SMTP) -> None:
    # The outcome of the call cannot change any more, so this does not wait for the reply to QUIT.
    with contextlib.suppress(OSError):
        server.putcmd("quit")
    server.close()
