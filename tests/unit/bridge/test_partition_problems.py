"""A partition has at most one problem of each kind. Only the most important problem is reported."""

from sluice.bridge.partition_problems import LOG_SECONDS, PartitionProblems
from sluice.db.records import PartitionProblem, ProblemKind

PLACE, OTHER = ("orders", 0), ("orders", 1)
NO_LEADER = PartitionProblem(ProblemKind.NO_LEADER, "no broker leads it")
STOPPED = PartitionProblem(ProblemKind.STOPPED, "records were deleted", 7)


def test_of_several_problems_the_kind_declared_last_is_reported() -> None:
    problems = PartitionProblems()
    problems.note(PLACE, STOPPED)
    problems.note(PLACE, NO_LEADER)
    problems.note(OTHER, NO_LEADER)
    assert problems.current() == {PLACE: STOPPED, OTHER: NO_LEADER}
    problems.clear(PLACE, [ProblemKind.STOPPED])
    assert problems.current() == {PLACE: NO_LEADER, OTHER: NO_LEADER}
    problems.clear(PLACE)
    problems.clear(PLACE)
    assert problems.current() == {OTHER: NO_LEADER}


def test_a_missing_leader_is_reported_before_an_older_error_of_that_leader() -> None:
    problems = PartitionProblems()
    problems.note(PLACE, NO_LEADER)
    problems.note(PLACE, PartitionProblem(ProblemKind.KAFKA_ERROR, "OFFSET_NOT_AVAILABLE"))
    assert problems.current() == {PLACE: NO_LEADER}
    assert problems.due_lines(0.0) == [(PLACE, NO_LEADER)]


def test_each_problem_is_logged_at_once_and_then_every_minute() -> None:
    problems = PartitionProblems()
    problems.note(PLACE, NO_LEADER)
    assert problems.due_lines(100.0) == [(PLACE, NO_LEADER)]
    problems.note(PLACE, STOPPED)
    problems.note(PLACE, NO_LEADER._replace(detail="still"))
    assert problems.due_lines(101.0) == [(PLACE, STOPPED)]
    # STOPPED hides NO_LEADER. When STOPPED ends, NO_LEADER is due again.
    assert problems.due_lines(100.0 + LOG_SECONDS) == []
    problems.clear(PLACE, [ProblemKind.STOPPED])
    assert problems.due_lines(100.5 + LOG_SECONDS) == [(PLACE, NO_LEADER._replace(detail="still"))]
    problems.clear(PLACE)
    assert problems.due_lines(1_000.0) == []
    problems.note(PLACE, NO_LEADER)
    assert problems.due_lines(1_000.5) == [(PLACE, NO_LEADER)]
