"""An operator's decision, and the refusal to carry it out."""

import getpass
import socket

from sluice.db.admin.audit import Decision


class OperationRefused(RuntimeError):
    """Nothing was changed; the message contains the reason and what to do instead."""


def decide(verb: str, reason: str) -> Decision:
    """Returns the decision with the user of this process, as user@host."""
    return Decision(f"{getpass.getuser()}@{socket.gethostname()}", verb, reason)
