"""Tests which partitions are not read after an error of a Kafka client, and when the problem ends."""

from collections.abc import Mapping

from sluice.bridge.client_errors import (
    ASSIGNED_SECONDS,
    GROUP_OVER_SECONDS,
    GROUP_PROBE_SECONDS,
    PROBE_SECONDS,
    ClientErrors,
)
from sluice.bridge.partition_problems import PartitionProblems
from sluice.bridge.read_report import find_unread, find_waiting
from sluice.db.delivery.partition_reads import PartitionRead
from sluice.db.records import PartitionProblem, ProblemKind
from sluice.kafka_io.consumer import TopicFacts
from sluice.kafka_io.kafka_errors import ClientError, judge_error
from sluice.runtime.partition_share import PartitionShare
from sluice.runtime.place import Place

FACTS = {"t": TopicFacts("t-id", 2), "u": TopicFacts("u-id", 1)}
ALL = frozenset([("t", 0), ("t", 1), ("u", 0)])
DENIED = judge_error("TOPIC_AUTHORIZATION_FAILED", "denied", place=("t", 1))
REFUSED = judge_error("GROUP_AUTHORIZATION_FAILED", "denied")


class _Bridge:
    def __init__(self) -> None:
        self.now = 0.0
        self.problems = PartitionProblems()
        self.errors = ClientErrors(self.problems, ["t", "u"], clock=lambda: self.now)

    def turn(
        self,
        *errors: ClientError,
        facts: Mapping[str, TopicFacts] = FACTS,
        refused: Mapping[str, ClientError] | None = None,
        assigned: frozenset[Place] = ALL,
    ) -> list[ClientError]:
        due = self.errors.note_errors(errors, self.now)
        self.errors.note_state(facts, refused or {}, assigned, self.now)
        return due

    def kinds(self) -> dict[Place, ProblemKind]:
        return {place: problem.kind for place, problem in self.problems.current().items()}


def test_an_error_of_a_partition_is_reported_until_a_fetch_reads_the_partition() -> None:
    bridge = _Bridge()
    assert bridge.turn(DENIED) == [], "the problem is logged, not the error"
    assert bridge.kinds() == {("t", 1): ProblemKind.NOT_AUTHORIZED}
    bridge.errors.note_readable([("t", 0), ("u", 0)])
    assert bridge.kinds() == {("t", 1): ProblemKind.NOT_AUTHORIZED}
    bridge.errors.note_readable([("t", 1)])
    assert bridge.kinds() == {}


def test_the_read_of_a_partition_with_an_error_is_restarted_at_intervals() -> None:
    bridge = _Bridge()
    bridge.turn(DENIED)
    assert bridge.errors.due_probes(PROBE_SECONDS - 1) == []
    assert bridge.errors.due_probes(PROBE_SECONDS) == [("t", 1)]
    assert bridge.errors.due_probes(PROBE_SECONDS + 1) == []
    bridge.errors.note_readable([("t", 1)])
    assert bridge.errors.due_probes(3 * PROBE_SECONDS) == []


def test_the_read_of_a_partition_is_restarted_even_if_another_module_found_its_problem() -> None:
    bridge = _Bridge()
    bridge.problems.note(("t", 0), PartitionProblem(ProblemKind.UNREADABLE_RECORD, "no records arrive", 7))
    assert bridge.errors.due_probes(0.0) == []
    assert bridge.errors.due_probes(PROBE_SECONDS) == [("t", 0)]
    bridge.errors.note_readable([("t", 0)])
    assert bridge.kinds() == {}


def test_the_error_of_a_partition_that_is_no_longer_assigned_is_dropped() -> None:
    bridge = _Bridge()
    bridge.turn(DENIED)
    bridge.turn(assigned=frozenset([("t", 0)]))
    assert bridge.kinds() == {}


def test_a_partition_without_a_leader_has_a_problem_until_a_leader_exists() -> None:
    bridge = _Bridge()
    facts = {**FACTS, "t": TopicFacts("t-id", 2, frozenset([1]))}
    bridge.turn(facts=facts, assigned=frozenset())
    assert bridge.kinds() == {("t", 1): ProblemKind.NO_LEADER}
    bridge.turn(facts=facts)
    assert bridge.kinds() == {("t", 1): ProblemKind.NO_LEADER}
    bridge.turn()
    assert bridge.kinds() == {}


def test_a_refused_topic_is_a_problem_of_all_its_partitions_even_if_they_were_never_seen() -> None:
    bridge = _Bridge()
    refused = {"t": judge_error("TOPIC_AUTHORIZATION_FAILED", "denied", topic="t")}
    bridge.turn(facts={"u": FACTS["u"]}, refused=refused)
    assert bridge.kinds() == {("t", 0): ProblemKind.NOT_AUTHORIZED}
    bridge.turn()
    assert bridge.kinds() == {}
    bridge.turn(facts={"u": FACTS["u"]}, refused=refused)
    assert set(bridge.kinds()) == {("t", 0), ("t", 1)}


def test_a_refused_group_is_a_problem_of_all_partitions_until_a_new_consumer_is_accepted() -> None:
    bridge = _Bridge()
    assert bridge.turn(REFUSED, assigned=frozenset()) == [REFUSED]
    assert bridge.turn(REFUSED, assigned=frozenset()) == [], "the error is logged one time per minute"
    assert bridge.kinds() == dict.fromkeys(ALL, ProblemKind.NOT_AUTHORIZED)
    assert bridge.errors.group_is_refused
    assert not bridge.errors.is_group_probe_due(GROUP_PROBE_SECONDS - 1)
    assert bridge.errors.is_group_probe_due(GROUP_PROBE_SECONDS)
    assert not bridge.errors.is_group_probe_due(GROUP_PROBE_SECONDS + 1)
    bridge.now = GROUP_OVER_SECONDS - 1
    bridge.turn(assigned=frozenset())
    assert bridge.errors.group_is_refused
    bridge.now = GROUP_OVER_SECONDS
    bridge.turn(assigned=frozenset())
    assert (bridge.errors.group_is_refused, bridge.kinds()) == (False, {})


def test_a_refused_group_is_not_a_problem_of_partitions_that_the_member_still_has() -> None:
    bridge = _Bridge()
    bridge.turn(REFUSED, assigned=frozenset([("t", 0)]))
    assert set(bridge.kinds()) == ALL - {("t", 0)}


def test_a_member_that_has_partitions_again_is_no_longer_refused() -> None:
    bridge = _Bridge()
    bridge.turn(REFUSED, assigned=frozenset())
    bridge.now = ASSIGNED_SECONDS
    bridge.turn(assigned=frozenset([("t", 0)]))
    assert (bridge.errors.group_is_refused, bridge.kinds()) == (False, {})


def test_without_a_consumer_all_known_partitions_have_a_problem() -> None:
    bridge = _Bridge()
    bridge.turn()
    bridge.errors.note_state({}, {}, frozenset(), bridge.now, away="no broker answers")
    assert bridge.kinds() == dict.fromkeys(ALL, ProblemKind.KAFKA_ERROR)
    bridge.turn()
    assert bridge.kinds() == {}


def test_reports_of_a_client_do_not_end_a_loud_stop() -> None:
    bridge = _Bridge()
    bridge.problems.note(("t", 1), PartitionProblem(ProblemKind.STOPPED, "re-created"))
    bridge.turn(DENIED)
    bridge.errors.note_readable([("t", 1)])
    bridge.turn(assigned=frozenset())
    assert bridge.kinds() == {("t", 1): ProblemKind.STOPPED}


def read(place: Place, **changed: object) -> PartitionRead:
    blank = PartitionRead._make([*place, None, False, *[None] * (len(PartitionRead._fields) - 4)])
    return blank._replace(**changed)  # type: ignore[arg-type]


def test_a_partition_is_abandoned_if_no_bridge_reads_it_and_no_bridge_reports_its_problem() -> None:
    reads = [
        read(("t", 0), was_read=True),
        read(("t", 1), was_read=True, unread_seconds=20.0),
        read(("u", 0), was_read=True, unread_seconds=20.0, problem=ProblemKind.NO_LEADER),
        read(("v", 0), was_read=False, unread_seconds=20.0),
        read(("w", 0), was_read=True, unread_seconds=20.0, problem=ProblemKind.STOPPED),
        read(("w", 1), was_read=True, unread_seconds=20.0),
    ]
    there = [(one.topic, one.partition) for one in reads]
    unread = find_unread(reads, [("v", 0), ("u", 0), ("x", 0)], there)
    assert unread.abandoned == {("t", 1)}
    assert unread.never_read == {("v", 0), ("x", 0)}
    assert find_unread(reads, [], []).abandoned == frozenset()


def test_a_partition_is_not_started_while_another_partition_of_its_topic_has_no_leader() -> None:
    facts = {**FACTS, "t": TopicFacts("t-id", 2, frozenset([1]))}
    waiting = find_waiting([("t", 0), ("u", 0), ("v", 0)], facts)
    assert {place: problem.kind for place, problem in waiting.items()} == {("t", 0): ProblemKind.NO_LEADER}
    assert find_waiting([("t", 0)], FACTS) == {}


def test_a_share_reports_only_its_own_partitions() -> None:
    problems = PartitionProblems()
    errors = ClientErrors(problems, ["t", "u"], clock=lambda: 0.0, share=PartitionShare(2, 2))
    errors.note_state({}, {}, frozenset(), 0.0, away="no broker answers")
    assert problems.current().keys() == {("t", 1), ("u", 1)}, "the first stands for an unknown topic"
    facts = {"t": TopicFacts("t-id", 4, share=PartitionShare(2, 2))}
    errors.note_state(facts, {}, frozenset(), 1.0, away="no broker answers")
    assert problems.current().keys() == {("t", 1), ("t", 3), ("u", 1)}
    assert errors.seen() == {("t", 1), ("t", 3)}
