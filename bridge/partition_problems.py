"""The current reasons why partitions are not read, and the times to log them. Pure."""

from collections.abc import Collection, Mapping

from sluice.db.records import PartitionProblem, ProblemKind
from sluice.runtime.place import Place

LOG_SECONDS = 60.0


class PartitionProblems:
    """The problems of partitions, at most one per partition and kind. Times are by a monotonic clock."""

    def __init__(self) -> None:
        self._noted: dict[Place, dict[ProblemKind, PartitionProblem]] = {}
        self._logged_at: dict[tuple[Place, ProblemKind], float] = {}

    def note(self, place: Place, problem: PartitionProblem) -> None:
        """Notes a problem. Replaces an earlier problem of the same kind. Idempotent."""
        self._noted.setdefault(place, {})[problem.kind] = problem

    def clear(self, place: Place, kinds: Collection[ProblemKind] = tuple(ProblemKind)) -> None:
        """Removes the partition's problems of these kinds. Idempotent."""
        noted = self._noted.get(place, {})
        for kind in kinds:
            noted.pop(kind, None)
            self._logged_at.pop((place, kind), None)
        if not noted:
            self._noted.pop(place, None)

    def current(self) -> Mapping[Place, PartitionProblem]:
        """Returns one problem per partition.

        If a partition has several, the kind that is declared last counts.
        """
        rank = list(ProblemKind)
        return {place: noted[max(noted, key=rank.index)] for place, noted in self._noted.items()}

    def due_lines(self, now: float) -> list[tuple[Place, PartitionProblem]]:
        """Returns the current problems to log now. Each problem is logged at once, and then every minute."""
        due = []
        for place, problem in sorted(self.current().items()):
            if now - self._logged_at.get((place, problem.kind), float("-inf")) >= LOG_SECONDS:
                self._logged_at[place, problem.kind] = now
                due.append((place, problem))
        return due
