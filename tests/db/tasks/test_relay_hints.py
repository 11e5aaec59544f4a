"""A hint is an id: all events of a queue up to this id are sent. With hints, queries read no dead rows."""

from collections.abc import Iterator
from typing import Any

import pytest

from sluice.db.connection import Statement
from sluice.db.sending.relay import DELETE_SENT, LOCK_WAITING, READ_PAGE
from sluice.db.values import bare_array, text_array
from sluice.tasks.outbox.relay import HINT_SECONDS, MAX_AWAY_SECONDS, Relayed
from tests.db.tasks import relaying
from tests.db.tasks.relaying import ACKNOWLEDGED, AWAY, Bench

SENT_EARLY, SENT_LATE, WAITING = 2_000, 20_000, 100

bench = relaying.bench


def test_a_refused_record_does_not_raise_the_hint_above_waiting_events(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice.tasks.outbox.relay.PAGE_ROWS", 2)
    monkeypatch.setattr("sluice.tasks.outbox.relay.LEAST_PAGE_ROWS", 2)
    bench.add((1, "a"), (2, "b"), (3, "c"), (4, "d"), (9, "x"))
    bench.look(
        "INSERT INTO sluice.outbox_refusals (queue, id, topic, key, error) VALUES ('e.0',9,'t','x','')"
    )
    while bench.run(HINT_SECONDS).sent:
        pass
    assert bench.left() == [9]


def test_hints_are_saved_every_few_seconds_and_never_fall(bench: Bench) -> None:
    def saved() -> dict[str, int]:
        return dict(bench.look("SELECT queue, sent_through FROM sluice.relay_progress"))

    bench.add((1, "a"), (2, "a"))
    bench.run()
    assert saved() == {"e.0": 2}
    bench.add((3, "a"))
    bench.run()
    assert saved() == {"e.0": 2}, "the hint is not saved with every page"
    bench.add((4, "a"), (7, "b"))
    bench.broker.answer = lambda number, *_: AWAY if number == 7 else ACKNOWLEDGED
    bench.run(HINT_SECONDS)
    assert saved() == {"e.0": 6}
    # A new relay reads the hint that another relay saved.
    bench.look("UPDATE sluice.relay_progress SET sent_through = 3")
    later = bench.new_relay(bench.broker)
    bench.broker.answer = lambda *_: ACKNOWLEDGED
    bench.broker.now += MAX_AWAY_SECONDS
    assert later.run_once() == Relayed(sent=1)
    assert saved() == {"e.0": 7}


def test_hints_are_read_again_over_a_new_connection(bench: Bench) -> None:
    bench.add((5, "a"))
    bench.run()
    bench.session.close()
    # Another server takes over with an older state. Events that were sent exist again, and the hint is lower.
    bench.add((3, "a"), (5, "a"))
    bench.look("UPDATE sluice.relay_progress SET sent_through = 2")
    assert bench.run() == Relayed(sent=2)
    assert bench.broker.numbers() == [5, 3, 5]


def test_hints_that_could_not_be_read_are_read_at_the_next_run(bench: Bench) -> None:
    bench.add((1, "a"))
    bench.look("ALTER TABLE sluice.relay_progress RENAME TO elsewhere")
    with pytest.raises(Exception, match="relay_progress"):
        bench.run()
    bench.look("ALTER TABLE sluice.elsewhere RENAME TO relay_progress")
    assert bench.run() == Relayed(sent=1)


def test_dead_rows_under_an_old_snapshot_do_not_slow_the_statements(bench: Bench) -> None:
    bench.add((1, "k1"))
    old = bench.open({})
    old.command("BEGIN ISOLATION LEVEL REPEATABLE READ")
    old.command("SELECT count(*) FROM sluice.outbox_events")
    touched = []
    for first, last in ((2, SENT_EARLY), (SENT_EARLY + WAITING + 1, SENT_LATE)):
        add_many(bench, first, last)
        while bench.run().sent:
            pass
        # Autovacuum would analyze the table, too. The planner then expects few live rows.
        bench.look("ANALYZE sluice.outbox_events")
        add_many(bench, last + 1, last + WAITING)
        hints = dict(bench.relay._sent_through)
        assert hints == {"e.0": last, "e.1": 0}
        deleting = ("e.0", bare_array(range(last + 1, last + WAITING + 1)), last + 1, last + WAITING)
        touched.append(
            [
                *(pages(bench, statement, hints) for statement in (LOCK_WAITING, READ_PAGE)),
                touched_pages(bench.session.explain(DELETE_SENT, deleting)),
            ]
        )
    early, late = touched
    # The index may have one more level than before.
    assert all(after <= before + 2 for before, after in zip(early, late, strict=True)), touched
    # Without hints, the scan reads all dead rows, so this test can detect growth.
    assert pages(bench, LOCK_WAITING, dict.fromkeys(hints, 0)) > 10 * late[0]
    old.command("COMMIT")


def add_many(bench: Bench, first: int, last: int) -> None:
    bench.look(
        "INSERT INTO sluice.outbox_events (queue, id, event_id, topic, key, type, headers, payload)"
        " SELECT 'e.0', n, gen_random_uuid(), 't', 'k' || n, 'made', '{}', '{}'"
        f" FROM generate_series({first}, {last}) n"
    )


def pages(bench: Bench, statement: Statement, hints: dict[str, int]) -> int:
    """Returns the number of pages that a statement touches. Asserts that it uses only the index."""
    arrays = text_array(hints), bare_array(hints.values())
    plan = bench.session.explain(
        statement, arrays if statement is LOCK_WAITING else (*arrays, "{}", 2_000, 1)
    )
    for path in paths(plan):
        # The index of events of a newer format is empty here.
        is_newer = path[-1].get("Index Name") == "outbox_events_newer_idx"
        if path[-1].get("Relation Name") == "outbox_events" and not is_newer:
            assert path[-1]["Node Type"] in ("Index Scan", "Index Only Scan"), statement.name
            # A sort above the LIMIT sorts only one page. A sort below the LIMIT would sort the whole queue.
            limits = [n for n, node in enumerate(path) if node["Node Type"] == "Limit"]
            assert not [node for node in path[limits[-1] if limits else 0 :] if "Sort" in node["Node Type"]]
    return touched_pages(plan)


def touched_pages(plan: dict[str, Any]) -> int:
    """Returns the number of pages that the whole plan touches."""
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def paths(plan: dict[str, Any], above: tuple[dict[str, Any], ...] = ()) -> Iterator[list[dict[str, Any]]]:
    """Yields the path from the top of a plan to each of its nodes."""
    yield [*above, plan]
    for inner in plan.get("Plans", ()):
        yield from paths(inner, (*above, plan))
