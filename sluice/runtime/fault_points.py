"""Named fault points: one line each in the code, off unless SLUICE_FAULTS names them.

`SLUICE_FAULTS="apply.before_commit:3:kill"` kills the process (SIGKILL) at the third pass of the point;
`bridge.published:1:stop` stops it (SIGSTOP), `apply.begun:2:raise` raises. Separate several by commas.
"""

import os
import signal
from dataclasses import dataclass, field

POINTS = frozenset(
    {
        "apply.begun",  # transaction begun, queue locked
        "apply.before_commit",
        "apply.committed",  # committed, message not acknowledged
        "bridge.half_published",  # some messages of this turn published, others not
        "bridge.published",  # all published
        "bridge.before_progress",  # before the watermark is written
        "relay.claimed",  # queues locked, rows read, nothing handed over
        "relay.handed",  # a record handed to the producer; passes count records
        "relay.acknowledged",  # by the broker; the rows are still there
        "relay.deleted",  # and committed
        "effect.claimed",  # marked as running and committed, no call made
        "effect.answered",  # the provider answered, nothing stored
        "effect.stored",
        "redrive.before_commit",
        "redrive.committed",
        "projection_redrive.before_commit",
        "projection_redrive.committed",
        "retry.before_commit",
        "retry.committed",  # one transaction of it
        "rebuild.before_commit",  # of a chunk
        "rebuild.committed",
        "swap.before",  # all checks done, no lock taken
        "swap.before_commit",  # view replaced
        "swap.committed",
        "erase.before_commit",
        "erase.committed",  # the applied letters still exist
    }
)
ACTIONS = frozenset({"kill", "stop", "raise"})


class FaultInjected(RuntimeError):
    """Raised by a fault point whose action is `raise`."""


@dataclass
class Faults:
    """The armed points: name → (number of the pass that acts, action)."""

    armed: dict[str, tuple[int, str]] = field(default_factory=dict)
    passes: dict[str, int] = field(default_factory=dict)

    def arm(self, text: str) -> None:
        """Arms the points named in `text` (see the module). Raises ValueError naming what is unknown."""
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
        """Carries out the action armed for this point and pass, if any."""
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
"""The fault points of this process, armed once at start from the settings."""
