"""A generation beside the live one: rebuilt from the log, fed in lockstep, swapped in, and swapped back."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from bridge.assignment import LogRange
from db import projections
from db.rerouting import TopicRouting
from ops.decisions import NotDone
from ops.rebuild import changes
from ops.rerouting.changes import accept_topic, reshard_entity
from ops.rerouting.shards import Resharded
from tasks import chunks, feeding, rebuild
from tasks.api import Call, Effect, Emit, Event, Upsert, handles, projects
from tasks.feeding import NotThisRevision
from tasks.redrive import Redriver
from tests.db.applying import TOPIC, TOPIC_ID, Thing, made, thing_set, things
from tests.db.projecting import DECISION, Bench, create, poison, registry, totals
from tests.waiting import wait_until

LEAVING = """
SELECT count(*) FROM sluice.outbox_events UNION ALL SELECT count(*) FROM sluice.executed_side_effects
"""


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    create(database_url)
    made = Bench(database_url)
    yield made
    made.close()


@pytest.fixture
def opened() -> Iterator[Callable[[Bench], Bench]]:
    """Closes other deployments of a bench."""
    benches: list[Bench] = []

    def keep(one: Bench) -> Bench:
        benches.append(one)
        return one

    yield keep
    for one in benches:
        one.close()


def test_readers_see_the_live_generation_which_is_written_with_everything_else(bench: Bench) -> None:
    bench.live(thing_set(0, "a", 5), thing_set(1, "b", 7), thing_set(2, "a", 6))
    assert bench.rows() == bench.rows(1) == {"a": (6, 2), "b": (7, 1)}
    assert bench.outcomes() == {"applied": 3}


def test_rebuilt_fed_swapped_and_swapped_back(bench: Bench, opened: Any) -> None:
    bench.live(thing_set(0, "a", 5), thing_set(1, "b", 7))
    fixed = opened(bench.with_code(registry(2, 10)))
    assert fixed.begin() == 2
    assert fixed.rebuild(2)
    assert bench.states() == {1: "live", 2: "ready"}
    assert bench.rows(2) == {"a": (50, 1), "b": (70, 1)}
    # In lockstep from here on: live feeds it.
    fixed.live(thing_set(2, "a", 6))
    assert (bench.rows(1), bench.rows(2)) == ({"a": (60, 2), "b": (7, 1)}, {"a": (60, 2), "b": (70, 1)})
    assert fixed.swap(2) == 1
    assert bench.states() == {1: "retired", 2: "live"}
    assert bench.rows() == bench.rows(2)
    fixed.live(thing_set(3, "b", 8))
    assert bench.rows() == {"a": (60, 2), "b": (80, 2)}
    assert fixed.swap(1) == 2
    assert bench.rows() == bench.rows(1) == {"a": (60, 2), "b": (80, 2)}
    fixed.live(thing_set(4, "b", 9))
    assert bench.rows(1) == bench.rows(2) == {"a": (60, 2), "b": (90, 3)}
    changes.drop(fixed.session, fixed.generation(2), DECISION)
    assert bench.states() == {1: "live"}
    assert bench.look("SELECT to_regclass('public.totals_g2')") == [(None,)]


def test_grants_on_the_view_and_views_over_it_stay(bench: Bench, opened: Any) -> None:
    bench.live(thing_set(0, "a", 5))
    bench.looking.command(
        "GRANT SELECT ON public.totals TO PUBLIC;"
        "CREATE VIEW public.sums AS SELECT sum(amount) AS amount FROM public.totals"
    )
    fixed = opened(bench.with_code(registry(2, 10)))
    number = fixed.begin()
    assert fixed.rebuild(number)
    fixed.swap(number)
    assert bench.look("SELECT amount FROM public.sums") == [(50,)]
    granted = "SELECT privilege_type FROM information_schema.table_privileges WHERE grantee = 'PUBLIC'"
    assert bench.look(f"{granted} AND table_name = 'totals'") == [("SELECT",)]


def test_a_long_look_of_a_reader_delays_a_swap_and_nobody_else(bench: Bench, opened: Any) -> None:
    bench.live(thing_set(0, "a", 5))
    fixed = opened(bench.with_code(registry(2, 10)))
    number = fixed.begin()
    assert fixed.rebuild(number)
    reader = opened(bench.with_code(bench.registry))
    reader.session.command("BEGIN; SELECT FROM public.totals")
    with pytest.raises(changes.Held, match="the view totals, is in somebody's hand"):
        fixed.swap(number)
    assert fixed.live(thing_set(1, "a", 6)) is not None
    reader.session.command("COMMIT")
    fixed.swap(number)
    assert bench.rows() == {"a": (60, 2)}


def test_what_live_did_not_apply_is_passed_over_and_counted(bench: Bench) -> None:
    bench.live(
        thing_set(0, "a", 5),
        thing_set(1, "a", 5, event_id="e0", version=0),  # again, under another offset
        thing_set(2, "a", 6, event_id="e0"),  # another one under its id
        poison(3, "b"),
        thing_set(4, "b", 7),  # waits
        made(5, "thing.broken", "c", amount=1),
        thing_set(6, "d", 8),
    )
    number = bench.begin()
    assert bench.rebuild(number)
    assert bench.rows(number) == bench.rows(1) == {"a": (5, 1), "d": (8, 1)}
    passed = bench.look(
        "SELECT folded, passed_duplicate, passed_conflict, passed_dead, passed_waiting, passed_unknown"
        " FROM sluice.generation_lanes"
    )
    assert passed == [(2, 1, 1, 2, 1, 0)]


def test_records_live_never_applied_are_unknown_to_it(bench: Bench) -> None:
    bench.log.append(thing_set(0, "old", 1))
    bench.looking.command("INSERT INTO sluice.partition_progress VALUES ('things', 0, 1, 1)")  # began there
    bench.live_from_here(thing_set(1, "a", 5))
    number = bench.begin()
    assert bench.rebuild(number)
    assert bench.rows(number) == bench.rows() == {"a": (5, 1)}


@pytest.mark.parametrize(
    ("died", "redriven"),
    [
        ("before it is passed", "before it is passed"),
        ("before it is passed", "while in lockstep"),
        ("before it is passed", "after the swap"),
        ("while in lockstep", "while in lockstep"),
        ("while in lockstep", "after the swap"),
    ],
)
def test_a_dead_event_redriven_is_in_every_generation_once(
    bench: Bench, opened: Any, died: str, redriven: str
) -> None:
    mended = opened(bench.with_code(registry(1, mended=True)))
    bench.live(thing_set(0, "k", 1))
    if died == "before it is passed":
        bench.live(poison(1, "k", 2), thing_set(2, "k", 3))
    number = bench.begin()
    if redriven == "before it is passed":
        mended.redrive()
    assert bench.rebuild(number)
    if died == "while in lockstep":
        bench.live(poison(1, "k", 2), thing_set(2, "k", 3))
    if redriven == "while in lockstep":
        mended.redrive()
    bench.swap(number)
    if redriven == "after the swap":
        mended.redrive()
    bench.live(thing_set(3, "k", 4))
    assert bench.rows(1) == bench.rows(number) == {"k": (4, 4)}
    assert (
        bench.look(
            "SELECT sum(passed_dead), sum(passed_waiting) FROM sluice.generation_lanes WHERE generation = 2"
        )
        == [(0, 0)]
        or redriven == "after the swap"
    )


def test_what_was_applied_before_a_re_routing_is_read_in_the_lanes_of_today(bench: Bench) -> None:
    bench.live(*(thing_set(n, f"key-{n}", n) for n in range(20)))
    bench.looking.command("INSERT INTO sluice.partition_progress VALUES ('things', 0, 1, 20)")
    assert isinstance(reshard_entity(bench.session, "thing", 3, DECISION, force=True), Resharded)
    number = bench.begin()
    assert bench.rebuild(number)
    assert bench.rows(number) == bench.rows() == {f"key-{n}": (n, 1) for n in range(20)}


def test_a_re_routing_is_refused_while_a_generation_is_fed(bench: Bench) -> None:
    bench.live(thing_set(0, "a", 1))
    number = bench.begin()
    with pytest.raises(NotDone, match="generation 2 of totals is kept up with live"):
        reshard_entity(bench.session, "thing", 3, DECISION, force=True)
    changes.drop(bench.session, bench.generation(number), DECISION)
    assert isinstance(reshard_entity(bench.session, "thing", 3, DECISION, force=True), Resharded)


def test_an_accepted_topic_ends_what_was_fed(bench: Bench) -> None:
    bench.live(thing_set(0, "a", 1))
    bench.looking.command("INSERT INTO sluice.partition_progress VALUES ('things', 0, 1, 1)")
    number = bench.begin()
    before, wanted = TopicRouting(TOPIC_ID, "thing"), TopicRouting("another id", "thing")
    accept_topic(bench.session, TOPIC, before, wanted, {0: LogRange(0, 0)}, DECISION)
    assert bench.states() == {1: "live", number: "failed"}
    assert "topic things was accepted" in bench.generation(number).failed_reason


def test_a_dropped_event_is_in_no_generation(bench: Bench, opened: Any) -> None:
    bench.live(thing_set(0, "k", 1), poison(1, "k", 2), thing_set(2, "k", 3))
    number = bench.begin()
    assert bench.rebuild(number)
    ((letter,),) = bench.look("SELECT id FROM sluice.dead_letters WHERE outcome = 'dead'")
    assert Redriver(bench.session, bench.registry).drop("thing", "k", letter)
    bench.redrive()
    third = bench.begin()
    assert bench.rebuild(third)
    assert bench.rows(1) == bench.rows(number) == bench.rows(third) == {"k": (3, 2)}


def test_a_redrive_by_code_of_another_revision_is_refused_where_it_would_have_to_feed(
    bench: Bench, opened: Any
) -> None:
    fixed = opened(bench.with_code(registry(2, 10, mended=True)))
    bench.live(poison(0, "k", 2))
    number = fixed.begin()
    assert fixed.rebuild(number)
    old = opened(bench.with_code(registry(1, mended=True)))
    with pytest.raises(NotThisRevision, match="made by revision 2, this code has 1"):
        old.redrive()
    fixed.redrive()
    assert (bench.rows(1), bench.rows(number)) == ({"k": (20, 1)}, {"k": (20, 1)})


def test_old_code_never_feeds_the_new_generation(bench: Bench, opened: Any) -> None:
    fixed = opened(bench.with_code(registry(2, 10)))
    bench.live(thing_set(0, "a", 1))
    number = fixed.begin()
    assert fixed.rebuild(number)
    bench.live(thing_set(1, "a", 2))  # a worker of the old deployment
    assert (bench.rows(1), bench.rows(number)) == ({"a": (2, 2)}, {"a": (10, 1)})
    fixed.live(thing_set(2, "a", 3))  # one of the new: the generation lags, and stays as it is
    assert (bench.rows(1), bench.rows(number)) == ({"a": (30, 3)}, {"a": (10, 1)})
    with pytest.raises(changes.Behind, match="1 lanes of generation 2 are behind live"):
        fixed.swap(number)
    assert not bench.rebuild(number), "the old deployment's rebuild worker leaves it alone"
    assert bench.rows(number) == {"a": (10, 1)}
    assert fixed.rebuild(number)
    assert bench.rows(number) == {"a": (30, 3)}


def test_a_lane_that_falls_behind_while_another_is_read_is_read_from_its_own_place(
    bench: Bench, opened: Any
) -> None:
    bench.add_queues(2)
    lanes = bench.queues()
    slow, fast = (next(k for k in "abcdefgh" if bench.queue_of(thing_set(0, k)) == lane) for lane in lanes)
    fixed = opened(bench.with_code(registry(2, 10)))
    bench.live(thing_set(0, slow, 1), thing_set(1, fast, 1))
    bench.log += [thing_set(2, slow, 2), thing_set(3, fast, 2)]
    bench.catch_up(lanes[1:])
    number = fixed.begin()
    assert fixed.rebuild(number), "live has not applied offset 2"
    # Code of the other revision does not feed it: the fast lane is behind, and is read from offset 4 on.
    bench.log.append(thing_set(4, fast, 3))
    bench.catch_up(lanes[1:])
    assert fixed.rebuild(number, meanwhile=lambda: bench.catch_up(lanes[:1]) and None)
    assert bench.rows(number) == {slow: (20, 2), fast: (30, 3)}


def test_a_generation_that_postgres_refuses_is_failed_and_live_does_not_notice(
    bench: Bench, opened: Any
) -> None:
    fixed = opened(bench.with_code(registry(2, 1_000)))
    bench.live(thing_set(0, "a", 1))
    number = fixed.begin()
    assert fixed.rebuild(number)
    # 1,000 times this is above what the table takes; in the live generation as well, by this code.
    assert bench.live(thing_set(1, "a", 5_000)) is not None
    assert not fixed.rebuild(number)
    assert bench.states()[number] == "failed"
    assert "amount_small" in bench.generation(number).failed_reason
    assert bench.rows() == {"a": (5_000, 2)}
    bench.live(thing_set(2, "a", 6))
    assert bench.rows() == {"a": (6, 3)}


def test_a_retired_generation_that_fails_while_it_is_fed_stops_nothing(bench: Bench, opened: Any) -> None:
    fixed = opened(bench.with_code(registry(2, 10)))
    bench.live(thing_set(0, "a", 1))
    number = fixed.begin()
    assert fixed.rebuild(number)
    fixed.swap(number)
    bench.look("ALTER TABLE totals_g1 ADD CHECK (amount < 100)")
    fixed.looking.connection.commit()
    fixed.live(thing_set(1, "a", 50))
    assert bench.rows() == {"a": (500, 2)}
    assert bench.states() == {1: "failed", number: "live"}
    assert bench.outcomes() == {"applied": 2}
    with pytest.raises(NotDone, match="generation 1 of totals is failed"):
        changes.require_generation(bench.session, "totals", 1, ("retired",), "it was not live before")


def test_an_event_that_dies_in_the_generation_alone_is_remembered(bench: Bench, opened: Any) -> None:
    @projects("thing.set", into=totals, revision=2)
    def fussy(event: Event[Thing]) -> Iterator[Upsert]:
        if event.data.amount == 2:
            raise ValueError("two")
        yield Upsert(totals, event.key, {"amount": event.data.amount})

    fixed = opened(bench.with_code(registry(2, project=fussy)))
    bench.live(thing_set(0, "a", 1), thing_set(1, "b", 2), thing_set(2, "c", 3))
    number = fixed.begin()
    assert fixed.rebuild(number)
    assert set(bench.rows(number)) == {"a", "c"}
    assert bench.look('SELECT "offset", key, error_class, error_text FROM sluice.generation_deaths') == [
        (1, "b", "ValueError", "two")
    ]


@pytest.mark.parametrize("effect", [Emit("out", "k", "t", {}), Call("notify")], ids=["emit", "call"])
def test_a_projection_that_emits_or_calls_is_refused_and_nothing_leaves(
    bench: Bench, opened: Any, effect: Any
) -> None:
    @projects("thing.set", into=totals, revision=2)
    def talkative(event: Event[Thing]) -> Iterator[Any]:
        yield Upsert(totals, event.key, {"amount": event.data.amount})
        yield effect

    bench.live(thing_set(0, "a", 1))
    before = bench.look(LEAVING)
    fixed = opened(bench.with_code(registry(2, project=talkative)))
    number = fixed.begin()
    assert not fixed.rebuild(number)
    assert bench.states()[number] == "failed"
    assert type(effect).__name__ in bench.generation(number).failed_reason
    assert fixed.live(thing_set(1, "a", 2)) is None, "the live queue halts: the deployment is wrong"
    assert "a rebuild would repeat it" in bench.look("SELECT halted_reason FROM sluice.queues")[0][0]
    assert bench.look(LEAVING) == before


def test_an_increment_for_a_record_of_a_compacted_topic_fails_the_generation(bench: Bench) -> None:
    bench.live(thing_set(0, "a", 1))
    number = bench.begin(compacted_topics=["things"])
    assert not bench.rebuild(number)
    assert "things, which is compacted" in bench.generation(number).failed_reason


def test_a_swap_without_lockstep_is_refused(bench: Bench) -> None:
    bench.live(thing_set(0, "a", 1))
    number = bench.begin()
    with pytest.raises(NotDone, match="is building"):
        bench.swap(number)


def test_paused_it_stands_still(bench: Bench) -> None:
    bench.live(*(thing_set(n, "a", n) for n in range(500)))
    number = bench.begin()
    changes.set_pace(bench.session, bench.generation(number), paused=True, rate=None, decision=DECISION)
    assert not bench.rebuild(number)
    assert bench.rows(number) == {}
    changes.set_pace(bench.session, bench.generation(number), paused=False, rate=None, decision=DECISION)
    assert bench.rebuild(number)
    assert bench.rows(number) == {"a": (499, 500)}


def test_a_projection_handler_that_writes_elsewhere_halts_the_queue(bench: Bench, opened: Any) -> None:
    @projects("thing.set", into=totals, revision=2)
    def stray(event: Event[Thing]) -> Iterator[Any]:
        yield Upsert(things, event.key, {"amount": 1})

    assert opened(bench.with_code(registry(2, project=stray))).live(thing_set(0, "a", 1)) is None
    assert "projects into totals and yielded" in bench.look("SELECT halted_reason FROM sluice.queues")[0][0]


def test_a_handler_that_writes_a_projection_halts_the_queue(bench: Bench) -> None:
    @handles("thing.set")
    def meddle(event: Event[Thing]) -> Iterator[Effect]:
        yield Upsert(totals, event.key, {"amount": 1})

    [entry] = bench.registry.handlers["thing.set"]
    bench.registry.handlers["thing.set"] = (replace(entry, function=meddle),)
    assert bench.live(thing_set(0, "a", 1)) is None
    assert "touches projection totals" in bench.look("SELECT halted_reason FROM sluice.queues")[0][0]


def rebuild_while_an_event_comes(
    bench: Bench, other: Bench, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Live applies the next event while a chunk is folded; the generation's rows afterwards."""
    bench.live(thing_set(0, "a", 1))
    bench.log.append(thing_set(1, "b", 2))
    number = bench.begin()
    applying = threading.Thread(target=other.catch_up)
    fold = feeding.apply_to_generation

    def fold_slowly(*arguments: Any) -> Any:
        if applying.ident is None:
            applying.start()
            wait_until(
                lambda: bench.look("SELECT pid FROM pg_locks WHERE NOT granted") or not applying.is_alive(),
                timeout_seconds=10,
                what="the event waits for the queue, or is through",
            )
        return fold(*arguments)

    monkeypatch.setattr(rebuild, "apply_to_generation", fold_slowly)
    bench.rebuild(number)
    applying.join(timeout=20)
    assert bench.rebuild(number)
    assert bench.rows() == {"a": (1, 1), "b": (2, 1)}
    return bench.rows(number)


def test_live_is_met_under_its_lock(bench: Bench, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    other = opened(bench.with_code(bench.registry))
    assert rebuild_while_an_event_comes(bench, other, monkeypatch) == bench.rows()


def test_passing_live_is_caught(bench: Bench, opened: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def beyond(offsets: Sequence[int], *, live: int, read_through: int, most: int) -> chunks.Chunk | None:
        assert read_through >= live
        return chunks.Chunk(len(offsets), offsets[-1], locked=False) if offsets else None

    monkeypatch.setattr(rebuild, "next_chunk", beyond)
    other = opened(bench.with_code(bench.registry))
    assert rebuild_while_an_event_comes(bench, other, monkeypatch) == {"a": (1, 1)}, (
        "the mutant loses nothing"
    )


def swap_while_an_event_comes(bench: Bench, other: Bench, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Between the look at the lanes and the swap an event is applied; whether readers miss it afterwards."""
    bench.live(thing_set(0, "a", 1))
    number = bench.begin()
    assert bench.rebuild(number)
    bench.log.append(thing_set(1, "a", 2))
    applying = threading.Thread(target=other.catch_up)
    set_live = projections.set_live

    def set_live_slowly(*arguments: Any) -> None:
        applying.start()
        wait_until(
            lambda: bench.look("SELECT pid FROM pg_locks WHERE NOT granted") or not applying.is_alive(),
            timeout_seconds=10,
            what="the event waits for the queue, or is through",
        )
        set_live(*arguments)

    monkeypatch.setattr(projections, "set_live", set_live_slowly)
    bench.swap(number)
    applying.join(timeout=20)
    bench.live(thing_set(2, "a", 3))
    return bench.rows() != {"a": (3, 3)}


def test_nothing_is_applied_while_readers_are_swapped_over(
    bench: Bench, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By code that may not feed the new one: whatever it applied before the swap would be missing after it.
    assert not swap_while_an_event_comes(bench, opened(bench.with_code(registry(2))), monkeypatch)


def test_a_swap_without_the_locks_is_caught(
    bench: Bench, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "lock_all", lambda _session: None)
    other = opened(bench.with_code(registry(2)))
    assert swap_while_an_event_comes(bench, other, monkeypatch), "the mutant loses nothing"
