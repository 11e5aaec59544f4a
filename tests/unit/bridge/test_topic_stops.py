"""A finding stops a topic until the finding disappears. A look is one check of all partitions."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from sluice.bridge.partition_problems import PartitionProblems
from sluice.bridge.start_conditions import (
    LoudStop,
    StopKind,
    judge_logs,
    judge_share,
    too_large,
    truncated,
)
from sluice.bridge.topic_stops import AGREE_SECONDS, GONE_AFTER_SECONDS, Look, TopicStops
from sluice.db.delivery.progress import Assignment
from sluice.db.records import PartitionProblem, ProblemKind
from sluice.kafka_io.consumer import TopicFacts
from sluice.kafka_io.log_range import LogRange
from sluice.runtime.partition_share import PartitionShare
from sluice.runtime.place import Place

PLACE, OTHER = ("t", 0), ("t", 1)
ABOVE = LoudStop(StopKind.ABOVE_END, "t[0]: the log ends below")
DELETED = LoudStop(StopKind.DELETED, "t[0]: records were deleted")
ROUTING = ("id", 1)


def look(
    at: float,
    judged: Mapping[Place, LoudStop | None],
    *,
    reported: Mapping[Place, str] | None = None,
    routing: tuple[str, int] = ROUTING,
    places: frozenset[Place] = frozenset({PLACE, OTHER}),
) -> Look:
    return Look(at, places, judged, {"t": routing}, reported or {})


def test_a_topic_stops_when_two_looks_agree_and_continues_when_a_look_finds_no_problem() -> None:
    stops = TopicStops()
    stops.note_look(look(10.0, {PLACE: ABOVE, OTHER: None}), [])
    assert not stops.stopped()
    assert stops.holds(PLACE)
    assert stops.holds(OTHER)
    assert not stops.holds(("u", 0))
    stops.note_look(look(10.0 + AGREE_SECONDS - 0.1, {PLACE: ABOVE}), [])
    assert not stops.stopped()
    stops.note_look(look(10.0 + AGREE_SECONDS, {PLACE: ABOVE}), [])
    assert stops.stopped() == {"t": ABOVE.message}
    assert stops.holds(OTHER)
    stops.note_look(look(20.0, {}), [])
    assert stops.stopped(), "a look without an answer proves nothing"
    stops.note_look(look(22.0, {PLACE: None}), [])
    assert not stops.stopped()
    assert not stops.holds(PLACE)


@given(st.lists(st.sampled_from([ABOVE, None]), min_size=1, max_size=40))
def test_a_topic_is_stopped_if_and_only_if_all_recent_looks_agree(
    found: list[LoudStop | None],
) -> None:
    stops = TopicStops()
    for now, stop in enumerate(found):
        stops.note_look(look(float(now), {PLACE: stop}), [])
    of_late = found[-int(AGREE_SECONDS) - 1 :]
    assert bool(stops.stopped()) == (len(of_late) > AGREE_SECONDS and None not in of_late)


def test_only_a_look_that_began_later_confirms_or_drops_a_finding() -> None:
    stops = TopicStops()
    stops.note_finding(PLACE, DELETED, 100.0)
    stops.note_look(look(99.0, {PLACE: None}), [PLACE])
    assert stops.holds(PLACE), "the look is older than the finding"
    stops.note_look(look(100.0 + AGREE_SECONDS, {PLACE: DELETED}), [PLACE])
    assert stops.stopped() == {"t": DELETED.message}


def test_deleted_records_do_not_stop_a_topic_if_this_bridge_may_have_read_them() -> None:
    stops = TopicStops()
    for now in range(20):
        stops.note_look(look(float(now), {PLACE: DELETED}), [PLACE])
    assert not stops.holds(PLACE)
    for now in range(20, 40):
        stops.note_look(look(float(now), {PLACE: DELETED}, reported={PLACE: "reported"}), [OTHER])
    assert stops.stopped() == {"t": DELETED.message}


def test_a_missing_topic_stops_later_than_a_topic_with_another_problem() -> None:
    gone = LoudStop(StopKind.GONE, "gone")
    stops = TopicStops()
    for now in (0.0, AGREE_SECONDS, GONE_AFTER_SECONDS - 0.1):
        stops.note_look(look(now, {PLACE: gone}), [])
        assert not stops.stopped()
    stops.note_look(look(GONE_AFTER_SECONDS, {PLACE: gone}), [])
    assert stops.stopped() == {"t": "gone"}
    stops.note_look(look(15.0, {PLACE: LoudStop(StopKind.RECREATED, "re-created")}), [])
    assert stops.stopped() == {"t": "re-created"}, "the topic continues only when a look finds no problem"


def test_a_stop_that_no_look_can_confirm_lasts_until_sluice_accept_changes_the_topic() -> None:
    for stop in (truncated(PLACE, "epoch 3"), too_large(PLACE, 7, "2 MiB")):
        stops = TopicStops()
        stops.note_event(PLACE, stop, ROUTING, 1.0)
        assert stops.stopped() == {"t": stop.message}
        stops.note_look(look(9.0, {PLACE: None}), [PLACE])
        assert stops.stopped()
        stops.note_look(look(11.0, {PLACE: None}, routing=("id", 2)), [PLACE])
        assert not stops.stopped()


def test_a_topic_stays_stopped_while_its_metadata_is_incomplete() -> None:
    stops = TopicStops()
    stops.note_event(OTHER, truncated(OTHER, "epoch 3"), ROUTING, 1.0)
    stops.note_look(look(2.0, {PLACE: None}, places=frozenset({PLACE})), [])
    assert stops.stopped(), "a broker that has just started may return incomplete metadata"
    stops = TopicStops()
    for now in (0.0, AGREE_SECONDS):
        stops.note_look(look(now, {PLACE: ABOVE}), [])
    stops.note_look(look(7.0, {}, places=frozenset({("u", 0)})), [])
    assert stops.stopped(), "Kafka returned no facts about the topic"


def test_a_partition_that_no_longer_exists_does_not_stop_its_topic() -> None:
    stops = TopicStops()
    stops.note_finding(OTHER, ABOVE, 1.0)
    stops.note_look(look(1.0 + AGREE_SECONDS, {OTHER: ABOVE}), [])
    assert stops.stopped()
    stops.note_look(look(8.0, {PLACE: None}, places=frozenset({PLACE})), [])
    assert not stops.stopped()


def test_a_stop_that_another_bridge_reports_stops_the_topic_but_is_not_reported_again() -> None:
    stops, problems = TopicStops(), PartitionProblems()
    stops.note_look(look(1.0, {PLACE: None}, reported={PLACE: "lost"}), [OTHER])
    assert stops.stopped() == {"t": "lost"}
    stops.show(problems)
    assert not problems.current()
    stops.note_look(look(3.0, {PLACE: None}), [OTHER])
    assert not stops.stopped()


def test_reports_about_the_bridges_own_partitions_are_ignored() -> None:
    stops = TopicStops()
    stops.note_look(look(1.0, {PLACE: None}, reported={PLACE: "reported before `sluice accept`"}), [PLACE])
    assert not stops.stopped()


def test_one_problem_per_topic_is_shown_until_the_stop_ends() -> None:
    stops, problems = TopicStops(), PartitionProblems()
    problems.note(PLACE, PartitionProblem(ProblemKind.NO_LEADER, "no leader"))
    for now in (0.0, AGREE_SECONDS):
        stops.note_look(look(now, {PLACE: ABOVE, OTHER: ABOVE}), [])
    stops.show(problems)
    assert dict(problems.current()) == {PLACE: PartitionProblem(ProblemKind.STOPPED, ABOVE.message)}
    stops.note_look(look(9.0, {PLACE: None, OTHER: None}), [])
    stops.show(problems)
    assert problems.current()[PLACE].kind is ProblemKind.NO_LEADER


def test_nothing_is_left_to_read_when_every_existing_topic_is_stopped() -> None:
    stops = TopicStops()
    assert not stops.nothing_is_left(["t"], ["t"])
    stops.note_event(PLACE, ABOVE, ROUTING, 0.0)
    assert stops.nothing_is_left(["t"], ["t"])
    assert stops.nothing_is_left(["t", "absent"], ["t"])
    assert not stops.nothing_is_left(["t", "u"], ["t", "u"])


def test_a_look_judges_every_partition_with_a_known_log_and_partition_0_of_a_missing_topic() -> None:
    applied = Assignment("id", "e", 1, 1, 1, 5, {"e.0": 9})
    topics = {"t": TopicFacts("id", 2), "v": TopicFacts("id-2", 1)}
    assignments = {("t", 0): applied, ("t", 1): applied, ("gone", 0): applied, ("v", 0): applied}
    logs = {
        ("t", 0): LogRange(0, 9),
        ("t", 1): LogRange(0, 10),
        ("t", 2): LogRange(0, 0),  # the metadata has only partitions 0 and 1
        ("v", 0): LogRange(0, 0),
    }
    found = judge_logs(topics, ["t", "gone", "never", "v"], assignments, logs)
    assert {place: stop and stop.kind for place, stop in found.items()} == {
        ("t", 0): StopKind.ABOVE_END,
        ("t", 1): None,
        ("v", 0): StopKind.RECREATED,
        ("gone", 0): StopKind.GONE,
        ("never", 0): None,
    }
    accepted = [stop.message for stop in found.values() if stop is not None]
    assert all("`sluice accept " in message for message in accepted)


def test_a_share_that_does_not_divide_the_partitions_stops_the_topic() -> None:
    share = PartitionShare(3, 4)
    topics = {"t": TopicFacts("id", 6, share=share), "u": TopicFacts("id-2", 8, share=share)}
    found = judge_logs(topics, ["t", "u", "gone"], {}, {("u", 2): LogRange(0, 0)}, share)
    assert {place: stop and stop.kind for place, stop in found.items()} == {
        ("t", 2): StopKind.UNDIVIDED,
        ("u", 2): None,
        ("gone", 2): None,
    }
    assert judge_share("u", topics["u"]) is None


def test_added_partitions_stop_a_topic_of_a_share_until_they_are_accepted() -> None:
    share = PartitionShare(1, 2)
    topics = {"t": TopicFacts("id", 4, share=share)}
    logs = {("t", 0): LogRange(0, 10), ("t", 2): LogRange(0, 5)}
    known = Assignment("id", "e", 1, 1, 1, 5, {"e.0": 9})
    added = Assignment("id", "e", 1, 1, None, None, {})
    before = judge_logs(topics, ["t"], {("t", 0): known, ("t", 2): added}, logs, share)
    assert {place: stop and stop.kind for place, stop in before.items()} == {
        ("t", 0): None,
        ("t", 2): StopKind.RAISED,
    }
    whole = {"t": TopicFacts("id", 4)}
    assert not any(judge_logs(whole, ["t"], {("t", 0): known, ("t", 2): added}, logs).values()), (
        "an installation with all partitions reads new partitions by itself"
    )
    accepted = {("t", 0): known, ("t", 2): Assignment("id", "e", 1, 1, 1, 0, {})}
    assert not any(judge_logs(topics, ["t"], accepted, logs, share).values())
    assert not any(judge_logs(topics, ["t"], {}, logs, share).values()), "a new topic needs no decision"
