"""The SMTP interface, with aiosmtpd: accepts recipients and messages, and causes the faults."""

import asyncio
import email
import email.policy
from typing import cast

from aiosmtpd.smtp import SMTP, Envelope, Session

from examples.shop.mail.messages import Mailbag, header
from examples.shop.outside.faults import Fault, FaultPlan, Moment

MOMENTS: frozenset[Moment] = frozenset(("before", "after"))
"""The moments of a fault: before and after the message is stored. An error status after the
message is stored is a false reply, which the fault requests.
"""

REFUSED_DOMAIN = "@refused.example"  # recipients in this domain are refused, for tests
HOSTNAME = "mail.example.org"  # fixed, because the library would query a name server at every connection


class MailHandler:
    """The handler of aiosmtpd's commands. aiosmtpd defines the method names."""

    def __init__(self, mailbag: Mailbag, faults: FaultPlan) -> None:
        self._mailbag, self._faults = mailbag, faults
        self._deciding: set[asyncio.Task[str | None]] = set()

    async def handle_RCPT(
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Replies 550 for REFUSED_DOMAIN."""
        if address.lower().endswith(REFUSED_DOMAIN):
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, _session: Session, envelope: Envelope) -> str:
        """Replies 250 when the message is on disk. If the client disconnects before that, the
        message is still stored.
        """
        task = asyncio.create_task(self._decide(envelope))
        self._deciding.add(task)  # asyncio itself holds only weak references to tasks
        task.add_done_callback(self._deciding.discard)
        reply = await asyncio.shield(task)
        if reply is None:
            cast(asyncio.Transport, server.transport).abort()
            return "421 dropped"  # never sent, because the connection is closed
        return reply

    async def handle_exception(self, error: Exception) -> str:
        """Replies 451, a temporary failure; the library itself would reply with a permanent failure."""
        return f"451 4.3.0 {type(error).__name__}"

    async def _decide(self, envelope: Envelope) -> str | None:
        content = cast(bytes, envelope.content)
        message = email.message_from_bytes(content, policy=email.policy.SMTP)
        recipients = [str(recipient) for recipient in envelope.rcpt_tos]
        message_id = header(message, "Message-ID")
        self._mailbag.receive(message_id)
        try:
            match self._faults.take("before", recipients[0]):
                case Fault(harm="delay", seconds=seconds):
                    await asyncio.sleep(seconds)
                case Fault(harm="error") as fault:
                    return _failure(fault)
                case Fault(harm="drop"):
                    return None
            self._mailbag.accept(message, recipients)
        finally:
            self._mailbag.decide(message_id)
        match self._faults.take("after", recipients[0]):
            case Fault(harm="delay", seconds=seconds):
                await asyncio.sleep(seconds)
            case Fault(harm="error") as fault:
                return _failure(fault)
            case Fault(harm="drop"):
                return None
        return "250 2.0.0 OK"


async def listen(handler: MailHandler, host: str, port: int) -> asyncio.Server:
    """Starts an SMTP server that accepts connections. Raises OSError if the address is taken."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: SMTP(handler, hostname=HOSTNAME, loop=loop), host, port)


def _failure(fault: Fault) -> str:
    status = fault.status or 451
    return f"{status} {status // 100}.3.0 a fault was requested"
