"""Frequent statements do not read the old row versions that another session's snapshot keeps."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import cycle
from types import ModuleType

import pytest

from sluice.db.apply import guard
from sluice.db.apply.guard import QueueRow
from sluice.db.connection import Session, Statement
from sluice.db.delivery import progress
from sluice.db.delivery.progress import TopicStart, register_topic
from tests.db.tasks.applying import QUEUE, TOPIC, TOPIC_ID, Bench, create_tables, slice_of, thing_set
from tests.mutants import mutated

PLACE = (TOPIC, 0)
# So many versions that each index has two levels before the first measurement, and no more at the last.
WARM_VERSIONS, VERSIONS, MEASURED_ROUNDS = 500, 1_000, 10
# A statement that reads all versions of a row reads ten pages more at the last measurement. One or two pages
# more are read where an index scan begins at the end of a page.
MOST_GROWTH = 3.0
HOT_TABLES = ("lane_offsets", "partition_watermarks", "failure_windows", "queues")

READ_BLOCKS = Statement(
    "read_blocks",
    """
    SELECT relname::text, heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit + idx_blks_read, 0)
    FROM pg_statio_all_tables WHERE schemaname = 'sluice'
    """,
)
COUNT_LANES = Statement("count_lanes", "SELECT count(*) FROM sluice.lane_offsets")


class Rounds:
    """Rounds of a worker and a bridge: one batch, some reads of the progress, one new watermark.

    Each batch changes the failure window of its queue, because the window is not full.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.bridge = Session(bench.database_url, application_name="test bridge", plans=progress.PLANS)
        register_topic(self.bridge, TopicStart(TOPIC, TOPIC_ID, "thing", 1, {0: 0}))
        for table in HOT_TABLES:
            # Postgres would count the pages that autovacuum reads.
            bench.looking.command(f"ALTER TABLE sluice.{table} SET (autovacuum_enabled = off)")
        self.next = 0

    def close(self) -> None:
        self.bridge.close()

    def run(self, rounds: int) -> Counter[str]:
        """Returns table → pages that the statements of these rounds read."""
        before = self._blocks()
        for _ in range(rounds):
            applied = self.bench.apply(slice_of([thing_set(self.next, f"key-{self.next}")], self.next - 1))
            assert applied is not None
            self.next += 1
            for _ in range(3):
                [read] = progress.read_assignments(self.bridge, [PLACE]).values()
                assert read.applied == {QUEUE: self.next - 1}
            with self.bridge.transaction(progress.ONE_SNAPSHOT):
                progress.raise_watermarks(self.bridge, {PLACE: (1, self.next)})
            [read] = progress.read_assignments(self.bridge, [PLACE]).values()
            assert read.watermark == self.next
        return self._blocks() - before

    def write_versions(self, versions: int) -> None:
        """Writes progress so many times, as rounds do, but in one transaction and without events."""
        windows = cycle([QueueRow(None, ".", 0), QueueRow(None, "x", 0)])
        before = next(windows)
        with self.bench.session.transaction():
            for _ in range(versions):
                step = guard.LaneStep(*PLACE, self.next - 1, self.next, {})
                guard.advance_lanes(self.bench.session, QUEUE, 1, [step])
                guard.update_queue(self.bench.session, QUEUE, before, after := next(windows))
                before = after
                self.next += 1
                progress.raise_watermarks(self.bridge, {PLACE: (1, self.next)})

    def _blocks(self) -> Counter[str]:
        for session in (self.bench.session, self.bridge):
            session.command("SELECT pg_stat_force_next_flush()")
        self.bench.looking.command("SELECT pg_stat_clear_snapshot()")
        return Counter(dict(self.bench.looking.run(READ_BLOCKS)))


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    create_tables(database_url)
    with closing(Bench(database_url)) as opened:
        yield opened


def growth_under_an_old_snapshot(bench: Bench) -> dict[str, float]:
    """Returns table → the pages that a round reads more after many versions than at first."""
    with (
        closing(Rounds(bench)) as rounds,
        closing(Session(bench.database_url, application_name="old")) as old,
    ):
        rounds.run(1)
        old.command("SET idle_in_transaction_session_timeout = 0")
        old.command("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM sluice.queues")
        rounds.write_versions(WARM_VERSIONS)
        early = rounds.run(MEASURED_ROUNDS)
        rounds.write_versions(VERSIONS)
        late = rounds.run(MEASURED_ROUNDS)
        [(kept,)] = old.run(COUNT_LANES)
        assert kept == 1
    return {table: (late[table] - early[table]) / MEASURED_ROUNDS for table in HOT_TABLES}


def test_pages_that_a_round_reads_do_not_grow_under_an_old_snapshot(bench: Bench) -> None:
    growth = growth_under_an_old_snapshot(bench)
    assert {table: pages for table, pages in growth.items() if pages > MOST_GROWTH} == {}


MUTANTS = [
    (guard, "READ_LANES", "o.topic DESC, o.partition DESC, o.applied", "o.topic, o.partition, o.applied"),
    (guard, "ADVANCE_LANE", " AND applied_offset = $5", ""),
    (guard, "READ_LANES", "ORDER BY w.step DESC LIMIT", "ORDER BY w.step + 0 DESC LIMIT"),
    (guard, "WRITE_WINDOW", " AND step = (SELECT step FROM newest)", ""),
    (progress, "READ_ASSIGNMENTS", "ORDER BY o.applied_offset DESC LIMIT", "LIMIT"),
    (progress, "READ_ASSIGNMENTS", "ORDER BY w.epoch DESC, w.watermark DESC LIMIT", "LIMIT"),
    (progress, "RAISE_WATERMARKS", " AND p.watermark = d.before AND", " AND"),
]


@pytest.mark.parametrize(("module", "statement", "old", "new"), MUTANTS)
def test_a_mutant_that_reads_old_versions_is_caught(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, module: ModuleType, statement: str, old: str, new: str
) -> None:
    monkeypatch.setattr(module, statement, getattr(mutated(module, old, new), statement))
    assert max(growth_under_an_old_snapshot(bench).values()) > MOST_GROWTH
