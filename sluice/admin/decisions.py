"""An operator's decision: who made it, and the refusal to carry it out."""

import getpass
import socket

from sluice.db.admin.audit import Decision


class OperationRefused(RuntimeError):
    """Nothing was changed; the message says why, and what to do instead."""


def decide(verb: str, reason: str) -> Decision:
    """The decision of whoever runs this command: user@host."""
    return Decision(f"{getpass.getuser()}@{socket.gethostname()}", verb, reason)
