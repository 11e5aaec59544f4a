"""Derives from the errors of a Kafka client the partitions that are not read, and the reasons. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from sluice.bridge.partition_problems import PartitionProblems
from sluice.db.records import PartitionProblem, ProblemKind
from sluice.kafka_io.consumer import TopicFacts
from sluice.kafka_io.kafka_errors import ClientError, ErrorAction
from sluice.runtime.log_pace import LogPace
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.place import Place

# Seconds between attempts to read a partition with an error again. A client may report an error only once, so
# only an attempt shows if the error is over.
PROBE_SECONDS = 30.0
# Seconds between new consumers while the group refuses the bridge.
GROUP_PROBE_SECONDS = 60.0
GROUP_OVER_SECONDS = 90.0  # if the refusal continues, the new consumer has reported it again within this time
# If the member has partitions this long after the last refusal, it is no longer refused.
ASSIGNED_SECONDS = 10.0

_KINDS = {
    ErrorAction.NO_LEADER: ProblemKind.NO_LEADER,
    ErrorAction.NOT_AUTHORIZED: ProblemKind.NOT_AUTHORIZED,
    ErrorAction.UNREADABLE_RECORD: ProblemKind.UNREADABLE_RECORD,
}
# The problems that end with a successful fetch. STOPPED is not among them, because the bridge itself decides
# to stop.
FETCH_KINDS = frozenset(ProblemKind) - {ProblemKind.STOPPED}
_ADVICE = {
    ProblemKind.NO_LEADER: "start the brokers that hold the replicas of the partition",
    ProblemKind.NOT_AUTHORIZED: "grant the bridge's user Read and Describe",
    ProblemKind.KAFKA_ERROR: "check the brokers; the bridge retries",
    ProblemKind.UNREADABLE_RECORD: 'skip the record with `sluice skip TOPIC:PARTITION:OFFSET --reason "…"`',
}


class ClientErrors:
    """The problems that follow from a consumer's reports. Times are by a monotonic clock."""

    def __init__(
        self,
        problems: PartitionProblems,
        topics: Iterable[str],
        *,
        clock: Callable[[], float],
        share: PartitionShare = WHOLE,
    ) -> None:
        self._problems = problems
        self._topics = tuple(topics)
        self._unknown = range(share.first, share.first + 1)  # the partitions of a topic without facts
        self._numbers: dict[str, range] = {}  # topic → its partitions in the newest facts
        self._pace = LogPace(clock=clock)
        # Problems from the facts of topics, the group and the brokers.
        self._standing: set[tuple[Place, ProblemKind]] = set()
        self._group_error: ClientError | None = None
        self._group_error_at = self._group_probed_at = float("-inf")
        self._probed_at: dict[Place, float] = {}

    @property
    def group_is_refused(self) -> bool:
        """True while the coordinator refuses this member. Then this member has no partition."""
        return self._group_error is not None

    def seen(self) -> frozenset[Place]:
        """Returns all partitions of all topics whose facts were read at any time."""
        return frozenset((topic, number) for topic, numbers in self._numbers.items() for number in numbers)

    def note_readable(self, places: Iterable[Place]) -> None:
        """Notes partitions that a fetch has read."""
        for place in self._probed_at.keys() & set(places):
            self._problems.clear(place, FETCH_KINDS)
            del self._probed_at[place]

    def note_errors(self, errors: Iterable[ClientError], now: float) -> list[ClientError]:
        """Notes errors that the client reported.

        Returns the errors to log: at most one per kind and minute.
        """
        due = []
        for error in errors:
            if error.of_group:
                if self._group_error is None:
                    self._group_probed_at = now
                self._group_error, self._group_error_at = error, now
            elif error.topic is not None and error.partition is not None:
                place = (error.topic, error.partition)
                self._problems.note(place, _problem(error))
                self._probed_at.setdefault(place, now)
                continue  # not logged as an error, because the problem is logged
            if self._pace.allows((error.code, error.topic)):
                due.append(error)
        return due

    def note_state(
        self,
        facts: Mapping[str, TopicFacts],
        refused: Mapping[str, ClientError],
        assigned: frozenset[Place],
        now: float,
        *,
        away: str = "",
    ) -> None:
        """Notes the current facts of the topics.

        `refused`: topics for which Kafka refuses to return facts → the reason. `away`: the reason why no
        broker is reached.
        """
        for topic, known in facts.items():
            self._numbers[topic] = known.numbers
        if now - self._group_error_at >= (ASSIGNED_SECONDS if assigned else GROUP_OVER_SECONDS):
            self._group_error = None
        standing = {
            (place, problem.kind): problem
            for topic in self._topics
            for place in ((topic, number) for number in self._numbers.get(topic, self._unknown))
            for problem in self._standing_problems(
                place, facts.get(topic), refused.get(topic), assigned, away
            )
        }
        for place, kind in self._standing - standing.keys():
            self._problems.clear(place, [kind])
        for (place, _), problem in standing.items():
            self._problems.note(place, problem)
        self._standing = set(standing)
        # If a partition is no longer assigned to this bridge, its new bridge reports the problems of the
        # partition.
        for place in self._probed_at.keys() - assigned:
            del self._probed_at[place]
            self._problems.clear(place, FETCH_KINDS - {kind for of, kind in standing if of == place})

    def _standing_problems(
        self,
        place: Place,
        facts: TopicFacts | None,
        refused: ClientError | None,
        assigned: frozenset[Place],
        away: str,
    ) -> Iterator[PartitionProblem]:
        if facts is not None and place[1] in facts.leaderless:
            detail = f"no broker leads the partition; {_ADVICE[ProblemKind.NO_LEADER]}"
            yield PartitionProblem(ProblemKind.NO_LEADER, detail)
        if refused is not None:
            yield _problem(refused)
        if self._group_error is not None and place not in assigned:
            yield _problem(self._group_error)
        if away:
            detail = f"{away.rstrip('. ')}; {_ADVICE[ProblemKind.KAFKA_ERROR]}"
            yield PartitionProblem(ProblemKind.KAFKA_ERROR, detail)

    def is_group_probe_due(self, now: float) -> bool:
        """Returns True if a new consumer should check now if the group still refuses the bridge."""
        if self._group_error is None or now - self._group_probed_at < GROUP_PROBE_SECONDS:
            return False
        self._group_probed_at = now
        return True

    def due_probes(self, now: float) -> list[Place]:
        """Returns the partitions to read again now, to check if their errors are over.

        Includes partitions whose problem another module noted, because the client may read nothing and report
        no error.
        """
        for place, problem in self._problems.current().items():
            if problem.kind in FETCH_KINDS and (place, problem.kind) not in self._standing:
                self._probed_at.setdefault(place, now)
        due = [place for place, at in self._probed_at.items() if now - at >= PROBE_SECONDS]
        self._probed_at.update(dict.fromkeys(due, now))
        return due


def _problem(error: ClientError) -> PartitionProblem:
    kind = _KINDS.get(error.action, ProblemKind.KAFKA_ERROR)
    detail = error.detail.rstrip(". ")
    return PartitionProblem(kind, f"{error.code}: {detail}; {_ADVICE[kind]}", error.offset)
