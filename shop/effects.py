"""The shop's side effects."""

import os
import smtplib
from email.message import EmailMessage

from tasks.api import EffectCall, JsonObject, NotSent, effect

SMTP_ADDRESS = "SHOP_SMTP_ADDRESS"
"""Environment: host:port of the mail server."""

_SUBJECTS = {"order-confirmation": "Your order"}


@effect("send_email", on_unknown="ask", timeout_seconds=10, attempts=8)
def send_email(call: EffectCall) -> JsonObject:
    """Sends one message. Mail servers know no idempotency key, so an unknown outcome is asked about."""
    host, _, port = os.environ.get(SMTP_ADDRESS, "127.0.0.1:25").rpartition(":")
    message = EmailMessage()
    message["From"] = "shop@example.org"
    message["To"] = str(call.args["to"])
    message["Subject"] = _SUBJECTS[str(call.args["template"])]
    message["X-Idempotency-Key"] = call.key
    message.set_content("Thank you.")
    try:
        server = smtplib.SMTP(host, int(port), timeout=5)
    except OSError as error:
        raise NotSent(f"no mail server at {host}:{port}: {error}") from error
    with server:
        refused = server.send_message(message)
    return {"refused": sorted(refused)}
