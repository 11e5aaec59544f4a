"""The apply transaction on a real Postgres: repeated and missing slices, the kinds of errors, and halts."""

import threading
from collections.abc import Iterator

import psycopg2
import pytest

from sluice.db.apply import guard
from sluice.db.errors import RowsChanged
from sluice.runtime.fault_points import FaultInjected, faults
from sluice.tasks.apply import apply as apply_module
from sluice.tasks.apply.fold_io import FoldIO
from sluice.tasks.apply.guard import judge
from tests.db.tasks.applying import QUEUE, Bench, create_tables, made, slice_of, thing_set
from tests.waiting import WAITING_BACKENDS, wait_until


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    create_tables(database_url)
    bench = Bench(database_url)
    yield bench
    bench.close()


@pytest.fixture
def exact_bench(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench that settles every batch by the exact fold."""
    monkeypatch.setenv("SLUICE_OPTIMISTIC", "never")
    create_tables(database_url)
    bench = Bench(database_url)
    yield bench
    bench.close()


def test_one_transaction_writes_row_outbox_ledger_identity_and_progress(bench: Bench) -> None:
    applied = bench.apply(slice_of([thing_set(3, amount=7), thing_set(9, amount=8)]))
    assert applied is not None
    assert dict(applied.outcomes) == {"applied": 2}
    assert bench.amounts() == {"k": 8}
    assert (
        bench.look("SELECT queue, topic, key, type FROM sluice.outbox_events ORDER BY id")
        == [(QUEUE, "things-out", "k", "thing.seen")] * 2
    )
    assert (
        bench.look("SELECT effect, entity, entity_key, state FROM sluice.executed_side_effects")
        == [("notify", "thing", "k", "pending")] * 2
    )
    assert bench.look('SELECT event_id, outcome, "offset" FROM sluice.processed_events ORDER BY 3') == [
        ("e3", "applied", 3),
        ("e9", "applied", 9),
    ]
    assert bench.look("SELECT applied_offset, applied FROM sluice.lane_offsets") == [(9, 2)]


def test_a_repeated_message_changes_nothing(bench: Bench) -> None:
    message = slice_of([thing_set(0), thing_set(1)])
    bench.apply(message)
    before = bench.look("SELECT * FROM sluice.outbox_events ORDER BY id")
    bench.apply(message)
    assert bench.look("SELECT * FROM sluice.outbox_events ORDER BY id") == before
    assert bench.outcomes() == {"applied": 2}


def test_an_overlapping_slice_applies_only_its_new_records(bench: Bench) -> None:
    bench.apply(slice_of([thing_set(0), thing_set(1)]))
    bench.apply(slice_of([thing_set(1), thing_set(2, amount=5)], prev=0))
    assert bench.outcomes() == {"applied": 3}
    assert bench.amounts() == {"k": 5}


def test_a_slice_after_a_gap_is_skipped_and_other_slices_are_applied(bench: Bench) -> None:
    gap = slice_of([thing_set(8)], prev=7)
    neighbour = slice_of([thing_set(0, "n")])._replace(partition=1)
    applied = bench.apply(gap, neighbour)
    assert applied is not None
    assert dict(applied.judgements) == {"gap": 1, "next": 1}
    assert bench.amounts() == {"n": 1}


def test_a_slice_of_another_epoch_changes_nothing(bench: Bench) -> None:
    bench.apply(slice_of([thing_set(0)], epoch=2))
    bench.apply(slice_of([thing_set(0)], epoch=0))
    assert bench.amounts() == {}


def test_a_repeated_event_id_is_a_duplicate_or_a_conflict_if_the_data_differ(bench: Bench) -> None:
    bench.apply(slice_of([thing_set(0, event_id="e"), thing_set(1, event_id="e", version=0)]))
    bench.apply(slice_of([thing_set(2, event_id="e", amount=9, version=0)], prev=1))
    assert bench.outcomes() == {"applied": 1, "duplicate": 1, "conflict": 1}
    assert bench.look("SELECT outcome, error_class FROM sluice.dead_letters") == [("conflict", "Conflict")]
    assert bench.amounts() == {"k": 1}


def test_a_record_applied_before_a_re_routing_is_not_counted_again(bench: Bench) -> None:
    message = slice_of([thing_set(0), made(1, "thing.broken")])
    bench.apply(message)
    bench.look("UPDATE sluice.entities SET epoch = 2")
    bench.apply(message._replace(epoch=2))
    assert bench.outcomes() == {"applied": 1, "dead": 1}
    assert bench.look("SELECT epoch, applied_offset FROM sluice.lane_offsets ORDER BY 1") == [(1, 1), (2, 1)]
    assert len(bench.look("SELECT 1 FROM sluice.dead_letters")) == 1


def test_an_error_in_a_handler_makes_only_its_event_a_dead_letter(bench: Bench) -> None:
    bench.apply(slice_of([thing_set(0, "a"), made(1, "thing.broken", "b"), thing_set(2, "c")]))
    assert bench.outcomes() == {"applied": 2, "dead": 1}
    assert bench.look("SELECT error_class, error_text, event_id FROM sluice.dead_letters") == [
        ("RuntimeError", "a fault in the handler", "e1")
    ]


@pytest.mark.parametrize(
    ("poison", "error_class"),
    [
        (thing_set(1, "b", amount=-1), "CheckViolation"),
        (thing_set(1, "b", name="taken"), "UniqueViolation"),
        (made(1, "part.added", "b", thing_id="nowhere"), "ForeignKeyViolation"),
        (thing_set(1, "b\\u0000", amount=1), "DecodeError"),
    ],
)
def test_a_write_that_postgres_refuses_makes_only_its_event_a_dead_letter(
    bench: Bench, poison: object, error_class: str
) -> None:
    if error_class == "DecodeError":
        poison = thing_set(1, "b")._replace(value=b'{"type": "thing.set", "data": {"name": "\\u0000"}}')
    bench.apply(slice_of([thing_set(0, "a", name="taken"), poison, thing_set(2, "c", amount=3)]))  # type: ignore[list-item]
    assert bench.outcomes() == {"applied": 2, "dead": 1}
    assert bench.amounts() == {"a": 1, "c": 3}
    assert bench.look("SELECT error_class FROM sluice.dead_letters") == [(error_class,)]
    assert bench.look("SELECT count(*) FROM sluice.outbox_events") == [(2,)]
    assert bench.look("SELECT applied_offset FROM sluice.lane_offsets") == [(2,)]


def test_a_deferred_constraint_that_is_fulfilled_at_commit_refuses_no_event(bench: Bench) -> None:
    bench.apply(slice_of([made(0, "part.added", "p", thing_id="t"), thing_set(1, "t")]))
    assert bench.outcomes() == {"applied": 2}


def test_a_missing_table_halts_the_queue_until_the_table_exists_again(bench: Bench) -> None:
    bench.look("ALTER TABLE public.things RENAME TO elsewhere")
    message = slice_of([thing_set(0)])
    assert bench.apply(message) is None
    [(reason,)] = bench.look("SELECT halted_reason FROM sluice.queues")
    assert "things" in reason
    assert bench.outcomes() == {}
    bench.look("ALTER TABLE public.elsewhere RENAME TO things")
    assert bench.apply(message) is not None
    assert bench.look("SELECT halted_reason FROM sluice.queues") == [(None,)]
    assert bench.amounts() == {"k": 1}


def test_the_applier_does_not_create_the_row_of_an_unknown_queue(bench: Bench) -> None:
    assert bench.applier.apply("thing.9", [slice_of([thing_set(0)])]) is None
    assert bench.look("SELECT queue FROM sluice.queues") == [(QUEUE,)]
    assert bench.amounts() == {}


def test_many_failed_events_halt_the_queue_and_leave_no_letters(bench: Bench) -> None:
    assert bench.apply(slice_of([made(n, "thing.broken", f"k{n}") for n in range(30)])) is None
    [(reason,)] = bench.look("SELECT halted_reason FROM sluice.queues")
    assert "30 of the last 30 events failed" in reason
    assert bench.look("SELECT count(*) FROM sluice.dead_letters") == [(0,)]
    assert bench.outcomes() == {}


def test_accepted_dead_letters_do_not_halt_the_queue(bench: Bench) -> None:
    bench.look("UPDATE sluice.queues SET accepted_deaths = 30")
    assert bench.apply(slice_of([made(n, "thing.broken", f"k{n}") for n in range(30)])) is not None
    assert bench.outcomes() == {"dead": 30}
    assert bench.look("SELECT accepted_deaths FROM sluice.queues") == [(0,)]
    assert bench.look("SELECT failure_window FROM sluice.failure_windows") == []


def test_a_batch_is_retried_after_a_lost_connection(bench: Bench) -> None:
    bench.apply(slice_of([thing_set(0)]))
    pid = bench.session.connection.get_backend_pid()
    bench.look(f"SELECT pg_terminate_backend({pid})")
    applied = bench.apply(slice_of([thing_set(1, amount=2)], prev=0))
    assert applied is not None
    assert bench.amounts() == {"k": 2}


def test_a_batch_whose_commit_answer_is_lost_is_applied_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = iter([True])

    def reach(point: str) -> None:
        if point == "apply.committed" and next(deaf, False):
            bench.session.close()
            raise psycopg2.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(faults, "reach", reach)
    applied = bench.apply(slice_of([thing_set(0)]))
    assert applied is not None
    assert dict(applied.judgements) == {"repeated": 1}
    assert bench.outcomes() == {"applied": 1}
    assert len(bench.look("SELECT 1 FROM sluice.outbox_events")) == 1


def test_a_concurrent_write_to_a_row_retries_the_transaction(
    exact_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_back = FoldIO.write_back
    others = iter([True])

    def write_after_another(store: FoldIO, *args: object) -> None:
        if next(others, False):
            exact_bench.look("INSERT INTO public.things (thing_id, amount, version) VALUES ('k', 5, 99)")
        write_back(store, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(FoldIO, "write_back", write_after_another)
    assert exact_bench.apply(slice_of([thing_set(0)])) is not None
    assert exact_bench.amounts() == {"k": 5}
    assert exact_bench.outcomes() == {"stale": 1}


def test_a_task_ends_without_a_write_if_the_rows_change_at_every_attempt(
    exact_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice.tasks.apply.retry_policy.PATIENCE_SECONDS", 0.5)

    def never(store: FoldIO, *args: object) -> None:
        raise RowsChanged("for ever")

    monkeypatch.setattr(FoldIO, "write_back", never)
    assert exact_bench.apply(slice_of([thing_set(0)])) is None
    assert exact_bench.outcomes() == {}


def test_a_second_worker_waits_for_the_queue_lock_and_finds_the_slice_applied(
    bench: Bench, database_url: str
) -> None:
    holder = Bench(database_url)
    message = slice_of([thing_set(0)])
    results: list[object] = []
    with holder.session.transaction():
        assert guard.lock_queue(holder.session, QUEUE)
        thread = threading.Thread(target=lambda: results.append(bench.apply(message)))
        thread.start()
        wait_until(
            lambda: holder.look(WAITING_BACKENDS),
            timeout_seconds=10,
            what="the second worker waits for the lock",
        )
    thread.join()
    holder.apply(message)
    holder.close()
    assert bench.outcomes() == {"applied": 1}


def test_a_mutant_that_does_not_check_prev_loses_records(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def careless(**claim: int) -> object:
        return judge(**{**claim, "prev": -1})

    monkeypatch.setattr(apply_module, "judge", careless)
    bench.apply(slice_of([thing_set(8)], prev=7))
    assert bench.outcomes() == {"applied": 1}, "the mutant does not apply the slice behind the gap"


def test_an_error_at_a_fault_point_rolls_the_transaction_back(bench: Bench) -> None:
    faults.arm("apply.before_commit:1:raise")
    try:
        with pytest.raises(FaultInjected):
            faults.reach("apply.before_commit")
        faults.arm("apply.before_commit:1:raise")
        assert bench.apply(slice_of([thing_set(0)])) is None
    finally:
        faults.arm("")
    assert bench.amounts() == {}
