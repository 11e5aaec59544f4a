"""What `sluice verify` found."""

from collections.abc import Sequence
from dataclasses import dataclass

from sluice.admin.verify.partition_verdict import PartitionVerdict, Verdict
from sluice.db.admin.letters import LetterCount
from sluice.db.admin.outbox_admin import QueueWaiting


@dataclass(frozen=True)
class Verified:
    """All of it: partitions are judged, the rest is counted."""

    partitions: Sequence[PartitionVerdict]
    letters: Sequence[LetterCount]
    parked: int
    outbox: Sequence[QueueWaiting]
    calls: Sequence[tuple[str, str, int]]
    """(effect, state, calls)."""

    def mismatches(self) -> list[PartitionVerdict]:
        """The partitions whose counters are not true."""
        return [one for one in self.partitions if one.verdict is Verdict.MISMATCH]
