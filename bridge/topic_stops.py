"""The topics that this bridge must not read, because further reading would skip records. Pure.

A stop concerns the whole topic: damage to one partition's log makes the other partitions doubtful. After the
first finding, no partition of the topic is started. If a later look confirms the finding, the partitions that
are being read stop too. A look without the finding ends the stop. Therefore `sluice accept` has an effect on
running bridges.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from sluice.bridge.partition_problems import PartitionProblems
from sluice.bridge.start_conditions import LoudStop, StopKind
from sluice.db.records import PartitionProblem, ProblemKind
from sluice.runtime.place import Place

# A newly elected leader may first report an end of the log that is too low.
AGREE_SECONDS = 5.0
# For a moment after the start of a broker, its metadata may lack a topic.
GONE_AFTER_SECONDS = 10.0

Routing: TypeAlias = tuple[str, int]
"""(topic id, epoch): `sluice accept` changes it."""


class BridgeStopped(Exception):
    """Raised if no topic is left that this bridge may read. The message contains each stop and its remedy."""


class TopicStopped(Exception):
    """Raised if further reading would skip records of the partition's topic."""

    def __init__(self, place: Place, stop: LoudStop) -> None:
        super().__init__(stop.message)
        self.place = place
        self.stop = stop


class Look(NamedTuple):
    """One check of all partitions. Postgres was read first, and then Kafka."""

    began_at: float
    places: frozenset[Place]
    """The partitions that exist, and partition 0 of each declared topic that Kafka does not have."""
    judged: Mapping[Place, LoudStop | None]
    """The partitions whose log Kafka reported → the stop, or None."""
    routings: Mapping[str, Routing]
    """Topic → its routing in Postgres."""
    reported: Mapping[Place, str]
    """Partitions for which a bridge reports a stop now → the text of the stop."""


@dataclass
class _Noted:
    stop: LoudStop
    since: float
    is_sure: bool = False
    routing: Routing | None = None
    """Set for a finding that no look can confirm. Such a finding lasts until the routing changes."""


class TopicStops:
    """The findings of one bridge, and the topics that are stopped by these findings.

    Times are by the clock of the bridge's loop.
    """

    def __init__(self) -> None:
        self._noted: dict[Place, _Noted] = {}
        self._reported: Mapping[Place, str] = {}
        self._shown: frozenset[Place] = frozenset()

    def note_finding(self, place: Place, stop: LoudStop, now: float) -> None:
        """Notes a reason not to start a partition. Later looks confirm or drop this finding."""
        self._noted.setdefault(place, _Noted(stop, now))

    def note_event(self, place: Place, stop: LoudStop, routing: Routing, now: float) -> None:
        """Stops the partition's topic at once, until its routing changes."""
        self._noted[place] = _Noted(stop, now, True, routing)

    def note_look(self, look: Look, assigned: Collection[Place]) -> None:
        """Applies the results of a look. `assigned`: the partitions of this bridge."""
        topics = {topic for topic, _ in look.places}
        for place, noted in list(self._noted.items()):
            if noted.since >= look.began_at:
                continue  # the finding is newer than the look
            is_over = (
                place not in look.places and place[0] in topics
                if noted.routing is None
                else look.routings.get(place[0], noted.routing) != noted.routing
            )
            if is_over:
                del self._noted[place]
        for place, stop in look.judged.items():
            self._judge(place, stop, look)
        # Reports about this bridge's own partitions are ignored. Otherwise two bridges would keep each other
        # stopped.
        self._reported = {
            place: text for place, text in look.reported.items() if place in look.places.difference(assigned)
        }

    def _judge(self, place: Place, stop: LoudStop | None, look: Look) -> None:
        noted = self._noted.get(place)
        if noted is not None and (noted.routing is not None or noted.since >= look.began_at):
            return
        if stop is None:
            self._noted.pop(place, None)
        elif noted is None:
            # Deleted records alone are not enough: the bridge that reads the partition may hold these records
            # and still send them.
            if stop.kind is not StopKind.DELETED or place in look.reported:
                self._noted[place] = _Noted(stop, look.began_at)
        elif noted.stop.kind is not stop.kind:
            self._noted[place] = _Noted(stop, look.began_at, noted.is_sure)
        else:
            noted.stop = stop
            noted.is_sure |= look.began_at - noted.since >= _patience(stop.kind)

    def holds(self, place: Place) -> bool:
        """Returns True if the partition must not be started: its topic is stopped, or may be soon."""
        return any(topic == place[0] for topic, _ in [*self._noted, *self._reported])

    def stopped(self) -> dict[str, str]:
        """Returns stopped topic → the reason, which this bridge found or another bridge reported."""
        found = {place[0]: text for place, text in sorted(self._reported.items(), reverse=True)}
        return found | {place[0]: noted.stop.message for place, noted in self._sure()}

    def nothing_is_left(self, declared: Iterable[str], existing: Collection[str]) -> bool:
        """Returns True if a topic is stopped and no declared topic that exists may be read."""
        stopped = self.stopped()
        return bool(stopped) and all(topic in stopped or topic not in existing for topic in declared)

    def show(self, problems: PartitionProblems) -> None:
        """Writes one problem to `problems` for each topic that is stopped by findings of this bridge."""
        shown = {place[0]: (place, noted.stop) for place, noted in self._sure()}
        places = frozenset(place for place, _ in shown.values())
        for place in self._shown - places:
            problems.clear(place, [ProblemKind.STOPPED])
        for place, stop in shown.values():
            problems.note(place, PartitionProblem(ProblemKind.STOPPED, stop.message))
        self._shown = places

    def _sure(self) -> list[tuple[Place, _Noted]]:
        """Returns the confirmed findings, the last partition first.

        Then a mapping by topic keeps the first.
        """
        return [(place, noted) for place, noted in sorted(self._noted.items(), reverse=True) if noted.is_sure]


def _patience(kind: StopKind) -> float:
    return GONE_AFTER_SECONDS if kind is StopKind.GONE else AGREE_SECONDS
