"""Scenario 7: a confirmation by e-mail. SMTP knows no idempotency key: an unknown outcome is asked about."""

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

TIMEOUT_SECONDS = 2.5  # for the connection and each reply: four fit into the effect's timeout
HOSTNAME = "shop.example.org"  # given, or smtplib asks a name server, without any timeout
SENDER = "shop@example.org"
SUBJECTS = {"order-confirmation": "Your order"}
UNFOLDED = SMTP.clone(max_line_length=998)  # RFC 5322 allows no more; at 78 a key would be folded


class EmailArgs(msgspec.Struct, frozen=True):
    """Args of a `send_email` call."""

    to: Annotated[str, msgspec.Meta(pattern=r"\A[!-~]+@[!-~]+\Z")]  # ASCII: not every server takes more
    template: Literal["order-confirmation"]


class NotAcknowledged(Exception):
    """The message went out and the server's reply to it is not known: it may be delivered."""


def find_email(call: EffectCall) -> JsonObject | None:
    """The message sent under this call's key, as the mail log has it; None: none was accepted, none is to be.

    Raises if that cannot be known now. Changes nothing.
    """
    return look_up(MAIL_LOG_URL, "/messages", {"message_id": message_id(call.key)}, "messages")


@effect("send_email", on_unknown="ask", timeout_seconds=10, attempts=8, reconcile=find_email)
def send_email(call: EffectCall) -> JsonObject:
    """Sends one message each time it runs; returns its id, by which the mail log knows it.

    Raises NotSent while the message is certainly not out: no connection, a connection that ends before DATA,
    and every 4yz reply, of which RFC 5321 §4.2.1 says that the action did not occur. Refused for 5yz. Unknown
    is what goes wrong after DATA: the message has left, the reply has not come.
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
    except OSError as error:  # smtplib's own errors, too: a greeting that is none
        raise NotSent(f"no mail server at {host}:{port}: {error}") from error
    try:
        _introduce(server, message)
        _hand_over(server, message)
    finally:
        _leave(server)
    return {"message_id": message["Message-ID"]}


def message_id(key: str) -> str:
    """The Message-ID of a call: the same for every attempt. A hash, since a key may hold any character."""
    return f"<{blake2b(key.encode(), digest_size=16).hexdigest()}@{HOSTNAME}>"


def write_message(call: EffectCall) -> EmailMessage:
    """The message of a call. Raises ValidationError if its args make none."""
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
    """Sender and recipient. Nothing of the message has left this machine."""
    try:
        server.ehlo_or_helo_if_needed()
        _judge(*server.mail(SENDER))
        _judge(*server.rcpt(str(message["To"])))
    except OSError as error:
        raise NotSent(f"the mail server ended the talk before the message: {error}") from error


def _hand_over(server: smtplib.SMTP, message: EmailMessage) -> None:
    try:
        code, text = server.data(message.as_bytes())
    except smtplib.SMTPDataError as error:  # the command itself was not accepted: the message was not sent
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
    # What became of the message is known by now: no reply to QUIT is waited for, and none can change it.
    with contextlib.suppress(OSError):
        server.putcmd("quit")
    server.close()
