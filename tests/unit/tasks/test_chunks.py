"""A worker applies a message in chunks. A chunk ends when its handlers have used up their time."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.db.apply.guard import Lanes
from sluice.db.apply.handler_deaths import HandlerDeaths
from sluice.runtime.place import EventPlace, Place
from sluice.tasks.apply import chunks
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.apply.chunks import (
    DECODED_AHEAD,
    HANDLER_BUDGET_SECONDS,
    MessageEvents,
    reached,
    session_settings,
)
from sluice.tasks.fold.fold import fold
from tests.db.tasks.applying import TOPIC, TOPIC_ID, registry, thing_set
from tests.mutants import mutated
from tests.unit.tasks.scripted import fresh_memory, scripted

REGISTRY = registry()


def lanes(applied: dict[Place, int]) -> Lanes:
    return Lanes(1, 1, {TOPIC: TOPIC_ID}, applied)


def slices(*sizes: int, topic: str = TOPIC, epoch: int = 1) -> list[Slice]:
    """Returns one slice per partition, with this number of records."""
    return [
        Slice(topic, TOPIC_ID, number, epoch, -1, [thing_set(offset) for offset in range(size)])
        for number, size in enumerate(sizes)
    ]


def ticking(seconds: float) -> Callable[[], float]:
    """Returns a clock that advances by `seconds` at each reading."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += seconds
        return now

    return clock


@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    seconds=st.sampled_from([0.0, 0.3, 0.6, 5.0]),
    before=st.dictionaries(st.integers(0, 3), st.integers(-1, 7)),
)
def test_the_chunks_of_a_message_apply_every_lane_completely(
    sizes: list[int], seconds: float, before: dict[int, int]
) -> None:
    message = MessageEvents(REGISTRY, slices(*sizes), ticking(seconds))
    applied: dict[Place, int] = {(TOPIC, number): offset for number, offset in before.items()}
    seen = [(n, offset) for n, size in enumerate(sizes) for offset in range(before.get(n, -1) + 1, size)]
    taken: list[tuple[int, int]] = []
    while True:
        chunk = message.next_chunk(lanes(applied))
        claims = [(p, message.events_of(p, applied.get((p.topic, p.partition), -1))) for p in chunk.slices]
        events = [event for _, planned in claims for event in planned]
        assert chunk.events == len(events)
        assert bool(events) or not chunk.is_cut, "a chunk that ends early contains events"
        taken += [(e.decoded.partition, e.decoded.record.offset) for e in events]
        applied |= reached(claims, len(events))
        if not chunk.is_cut:
            break
    assert taken == seen


@given(
    size=st.integers(1, 3 * DECODED_AHEAD),
    cuts=st.lists(st.integers(0, 3 * DECODED_AHEAD), max_size=3),
    is_applied=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_each_record_gets_its_own_plan_although_records_are_decoded_ahead(
    size: int, cuts: list[int], is_applied: list[bool]
) -> None:
    check_plans(size, cuts, is_applied)


def check_plans(size: int, cuts: list[int], is_applied: list[bool]) -> None:
    """Takes chunks of at most `cuts` events, and applies some of them. The next chunk then begins again."""
    left: Iterator[float] = iter(())
    message = chunks.MessageEvents(REGISTRY, slices(size), lambda: next(left, 2 * HANDLER_BUDGET_SECONDS))
    applied: dict[Place, int] = {}
    for cut, commits in zip([*cuts, size], is_applied, strict=False):
        left = iter([0.0] * (cut + 1))
        chunk = message.next_chunk(lanes(applied))
        before = applied.get((TOPIC, 0), -1)
        claims = [(piece, message.events_of(piece, before)) for piece in chunk.slices]
        assert chunk.events == sum(len(events) for _, events in claims)
        for piece, events in claims:
            offsets = [event.decoded.record.offset for event in events]
            assert offsets == [one.offset for one in piece.records if one.offset > before]
        if commits:
            applied |= reached(claims, chunk.events)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "self._decode(piece, [one for one in records if one.offset not in known])",
            "self._decode(piece, records)",
        ),
        ("enumerate(records, start)", "enumerate(records, first)"),
        ("next(decoded))", "list(decoded)[-1])"),
    ],
)
def test_a_mutant_that_decodes_ahead_wrongly_is_found(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    monkeypatch.setattr(chunks, "MessageEvents", mutated(chunks, old, new).MessageEvents)
    with pytest.raises((AssertionError, StopIteration, IndexError, KeyError)):  # noqa: PT012
        for cut in (1, DECODED_AHEAD // 2, 2 * DECODED_AHEAD):
            check_plans(3 * DECODED_AHEAD, [cut, 2 * cut], [False, True, True])


def test_a_fast_message_is_one_chunk() -> None:
    chunk = MessageEvents(REGISTRY, slices(200, 3)).next_chunk(lanes({}))
    assert (chunk.is_cut, chunk.events, chunk.first) == (False, 203, (TOPIC, 0, 0))


def test_a_slow_handler_ends_its_chunk() -> None:
    clock = ticking(HANDLER_BUDGET_SECONDS / 2)
    chunk = MessageEvents(REGISTRY, slices(5), clock).next_chunk(lanes({}))
    # The clock is read at the beginning and before each event except the first.
    assert (chunk.is_cut, chunk.events) == (True, 2)


@pytest.mark.parametrize("odd", [{"topic": "undeclared"}, {"epoch": 2}])
def test_a_slice_without_a_plan_adds_no_events_to_its_chunk(odd: dict[str, object]) -> None:
    [strange] = slices(3, **odd)  # type: ignore[arg-type]
    message = MessageEvents(REGISTRY, [strange, *slices(2)])
    chunk = message.next_chunk(lanes({}))
    assert (chunk.slices[0], chunk.events) == (strange, 2)


def test_a_lane_that_the_worker_left_is_in_no_later_chunk() -> None:
    pieces = slices(2, 2)
    message = MessageEvents(REGISTRY, pieces)
    message.leave(pieces[:1])
    assert message.next_chunk(lanes({})).slices == pieces[1:]


@pytest.mark.parametrize(
    ("settled", "offsets"),
    [(0, {}), (1, {(TOPIC, 0): 0}), (2, {(TOPIC, 0): 1}), (3, {(TOPIC, 0): 1, (TOPIC, 1): 0}),
     (5, {(TOPIC, 0): 1, (TOPIC, 1): 2})],
)  # fmt: skip
def test_the_new_offset_of_a_lane_is_its_last_settled_record(settled: int, offsets: dict[Place, int]) -> None:
    pieces = slices(2, 3)
    message = MessageEvents(REGISTRY, pieces)
    assert reached([(piece, message.events_of(piece, -1)) for piece in pieces], settled) == offsets


def test_the_fold_starts_no_further_event_after_its_time_is_over() -> None:
    over = iter([False, False, True])
    result = fold([scripted(n) for n in range(9)], fresh_memory(), lambda: next(over))
    assert [one.planned.decoded.record.offset for one in result.settled] == [0, 1, 2]


def test_the_fold_settles_at_least_one_event() -> None:
    assert len(fold([scripted(0), scripted(1)], fresh_memory(), lambda: True).settled) == 1


@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    suspected=st.sets(st.tuples(st.integers(0, 2), st.integers(0, 5))),
)
def test_an_event_that_may_end_the_process_is_alone_and_last(
    sizes: list[int], suspected: set[tuple[int, int]]
) -> None:
    message = MessageEvents(REGISTRY, slices(*sizes), ticking(0.0))
    deaths = {EventPlace(TOPIC, TOPIC_ID, *place): HandlerDeaths(1, False, "x") for place in suspected}
    applied: dict[Place, int] = {}
    taken: list[tuple[int, int]] = []
    ready = dict.fromkeys(range(len(sizes)), 0)
    while True:
        chunk = message.next_chunk(lanes(applied)._replace(deaths=deaths))
        claims = [(p, message.events_of(p, applied.get((p.topic, p.partition), -1))) for p in chunk.slices]
        places = [(e.decoded.partition, e.decoded.record.offset) for _, planned in claims for e in planned]
        if suspected.intersection(places):
            assert len(places) == 1
            # Every other lane is at its end or at a suspected event.
            assert all(at == sizes[n] or (n, at) in suspected for n, at in ready.items())
        taken += places
        applied |= reached(claims, len(places))
        for number, offset in places:
            assert offset == ready[number]
            ready[number] = offset + 1
        if not chunk.is_cut:
            break
    assert ready == dict(enumerate(sizes))
    assert len(taken) == sum(sizes)


@pytest.mark.parametrize(
    ("deaths", "expected"),
    [
        (HandlerDeaths(2, False, "signal SIGSEGV"), None),
        (HandlerDeaths(3, False, "signal SIGSEGV"), "HandlerEndedProcess"),
        (HandlerDeaths(1, True, "killed"), "HandlerTimedOut"),
    ],
)
def test_an_event_that_ended_processes_too_often_does_not_run(
    deaths: HandlerDeaths, expected: str | None
) -> None:
    message = MessageEvents(REGISTRY, slices(3))
    died = {EventPlace(TOPIC, TOPIC_ID, 0, 1): deaths, EventPlace(TOPIC, "older id", 0, 2): deaths}
    chunk = message.next_chunk(lanes({})._replace(deaths=died))
    events = message.events_of(chunk.slices[0], -1)
    if expected is None:
        assert (chunk.is_cut, [len(event.runs) for event in events]) == (True, [1])
        return
    assert not chunk.is_cut
    assert [len(event.runs) for event in events] == [1, 0, 1]
    assert events[1].error is not None
    assert events[1].error.error_class == expected
    assert events[1].parks


@pytest.mark.parametrize("handler_seconds", [0.1, 10, 300])
def test_the_idle_time_out_of_a_transaction_is_longer_than_the_time_of_its_handlers(
    handler_seconds: float,
) -> None:
    limit = session_settings(handler_seconds)["idle_in_transaction_session_timeout"]
    assert int(limit.removesuffix("ms")) / 1000 > handler_seconds + HANDLER_BUDGET_SECONDS
