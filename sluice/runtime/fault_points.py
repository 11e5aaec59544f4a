"""Named fault points in the code. A point does nothing unless SLUICE_FAULTS names it.

`SLUICE_FAULTS="apply.before_commit:3:kill"` kills the process (SIGKILL) when it reaches the point for the
third time. `bridge.published:1:stop` stops the process (SIGSTOP), and `apply.begun:2:raise` raises
FaultInjected. Separate several points by commas.
"""

import os
import signal
from dataclasses import dataclass, field

POINTS = frozenset(
    {
        "apply.begun",  # the transaction has begun, the queue is locked
        "apply.before_commit",
        "apply.committed",  # committed, but the message is not acknowledged yet
        "bridge.half_published",  # only some messages of this turn are published
        "bridge.published",  # all messages of this turn are published
        "bridge.before_progress",  # before the watermark is written
        "relay.claimed",  # queues are locked and rows are read, but no record is passed to the producer yet
        "relay.handed",  # a record was passed to the producer; reached once per record
        "relay.acknowledged",  # the broker acknowledged the records; the rows still exist
        "relay.deleted",  # the rows are deleted, and this is committed
        "effect.claimed",  # the call is stored as running and this is committed, but the call is not made yet
        "effect.answered",  # the provider has answered, but the answer is not stored yet
        "effect.stored",
        "redrive.before_commit",
        "redrive.committed",
        "projection_redrive.before_commit",
        "projection_redrive.committed",
        "retry.before_commit",
        "retry.committed",  # one transaction of the retry is committed
        "rebuild.before_commit",  # before the commit of a chunk
        "rebuild.committed",
        "swap.before",  # all checks are done, but no lock is taken yet
        "swap.before_commit",  # the view is replaced
        "swap.committed",
        "erase.before_commit",
        "erase.committed",  # the letters with outcome "applied" still exist
    }
)
ACTIONS = frozenset({"kill", "stop", "raise"})


class FaultInjected(RuntimeError):
    """Raised by a fault point whose action is `raise`."""


@dataclass
class Faults:
    """The armed points: name → (the number of the pass at which the point acts, action)."""

    armed: dict[str, tuple[int, str]] = field(default_factory=dict)
    passes: dict[str, int] = field(default_factory=dict)

    def arm(self, text: str) -> None:
        """Arms the points in `text`, which has the form of SLUICE_FAULTS.

        Raises ValueError for an unknown name.
        """
        self.armed, self.passes = {}, {}
        for item in filter(None, (part.strip() for part in text.split(","))):
            name, _, rest = item.partition(":")
            nth, _, action = rest.partition(":")
            if name not in POINTS or action not in ACTIONS or not nth.isdigit():
                raise ValueError(
                    f"SLUICE_FAULTS: {item!r} is not NAME:N:ACTION with NAME of {sorted(POINTS)}"
                    f" and ACTION of {sorted(ACTIONS)}"
                )
            self.armed[name] = (int(nth), action)

    def reach(self, name: str) -> None:
        """Counts a pass of the point, and carries out its action if it is armed for this pass."""
        if not self.armed or name not in self.armed:
            return
        self.passes[name] = self.passes.get(name, 0) + 1
        nth, action = self.armed[name]
        if self.passes[name] != nth:
            return
        if action == "raise":
            raise FaultInjected(name)
        os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)


faults = Faults()
"""The fault points of this process. They are armed from the settings when the process starts."""
