"""Outgoing events in a newer format stay. Later events of their keys wait, and all other events are sent."""

import pytest
import structlog

from sluice.db.sending import relay as outbox
from sluice.tasks.installation.formats import NEWEST_FORMAT
from sluice.tasks.outbox.relay import HINT_SECONDS
from tests.db.tasks import relaying
from tests.db.tasks.relaying import Bench
from tests.mutants import mutated

bench = relaying.bench


def make_newer(bench: Bench, *ids: int) -> None:
    bench.look(
        "UPDATE sluice.outbox_events SET format = %s WHERE id = ANY (%s)", (NEWEST_FORMAT + 1, list(ids))
    )


def run_all(bench: Bench) -> list[int]:
    while bench.run(HINT_SECONDS).sent:
        pass
    return bench.broker.numbers()


def test_a_newer_event_holds_only_its_key_in_its_queue(bench: Bench) -> None:
    bench.add((1, "a"), (2, "b"), (3, "a"), (4, None), (5, None), (6, "b"))
    bench.add((7, "a"), (9, "z"), queue="e.1")
    bench.add((8, "a"), topic="u")
    make_newer(bench, 1, 4, 9)
    with structlog.testing.capture_logs() as logged:
        assert sorted(run_all(bench)) == [2, 5, 6, 7, 8]
    assert [line["queue"] for line in logged] == ["e.0", "e.1"]
    assert bench.left() == [1, 3, 4, 9]
    bench.look("UPDATE sluice.outbox_events SET format = 1")
    assert sorted(run_all(bench)) == [1, 3, 4, 9]
    assert bench.broker.log == []


def test_the_hint_of_a_queue_stays_below_an_event_of_a_newer_format(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice.tasks.outbox.relay.PAGE_ROWS", 2)
    monkeypatch.setattr("sluice.tasks.outbox.relay.LEAST_PAGE_ROWS", 2)
    bench.add((1, "x"), (2, "a"), (3, "b"), (4, "c"), (5, "a"), (6, "d"))
    make_newer(bench, 2)
    assert sorted(run_all(bench)) == [1, 3, 4, 6]
    assert dict(bench.look("SELECT queue, sent_through FROM sluice.relay_progress")) == {"e.0": 1}
    bench.look("UPDATE sluice.outbox_events SET format = 1")
    assert run_all(bench) == [2, 5]


def test_a_newer_event_that_commits_while_a_page_is_read_holds_later_events(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.add((1, "x"))
    read_page, late = outbox.read_page, [(2, "a"), (3, "a"), (4, "b")]

    def commit_first(*args: object, **options: object) -> object:
        if late:
            bench.add(*late)
            make_newer(bench, 2)
            late.clear()
        return read_page(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(outbox, "read_page", commit_first)
    assert run_all(bench) == [1, 4]
    bench.look("UPDATE sluice.outbox_events SET format = 1")
    assert run_all(bench) == [2, 3]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("NOT d.holds_newer OR w.format <= $5 AND NOT EXISTS", "NOT d.holds_newer OR NOT EXISTS"),
        ("AND n.queue = w.queue AND n.topic = w.topic", "AND n.topic = w.topic"),
        ("AND n.key = w.key AND n.id < w.id", "AND n.key = w.key AND n.id > w.id"),
        ("n.format > $5 AND n.queue = d.queue", "false"),
    ],
)
def test_a_mutant_of_the_page_query_is_caught(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    mutant = mutated(outbox, old, new)
    monkeypatch.setattr(outbox, "READ_PAGE", mutant.READ_PAGE)
    with pytest.raises(AssertionError):
        test_a_newer_event_holds_only_its_key_in_its_queue(bench)
