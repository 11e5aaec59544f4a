"""Frequent statements do not read the old row versions that another session's snapshot keeps."""

from collections import Counter
from contextlib import closing
from itertools import count, cycle
from types import ModuleType

import pytest

from sluice.db.apply import guard, projection_letters
from sluice.db.apply.guard import QueueRow
from sluice.db.connection import BATCH_PLANS, QUEUE_PLANS, Session, Statement
from sluice.db.delivery import progress
from sluice.db.delivery.progress import TopicStart, register_topic
from sluice.db.projections import generation_lag, generation_lanes, generation_pace, generations
from sluice.db.projections.generation_lanes import GenerationStep
from sluice.tasks.events.routing import shard_of
from tests.db.tasks.applying import QUEUE, TOPIC, TOPIC_ID, slice_of, thing_set
from tests.db.tasks.projecting import PLACE, Bench, create
from tests.mutants import mutate_statement

RETIRED = ("totals", 1)
REFUSED_AMOUNT = 1_000_000
# The planner chooses an index scan for one queue, but may choose a bitmap scan for several.
QUEUES = 4
# So many versions that each index has two levels before the first measurement, and no more at the last.
WARM_VERSIONS, VERSIONS, MEASURED_ROUNDS = 500, 1_000, 10
# A statement that reads all versions of a row reads ten pages more at the last measurement. One or two pages
# more are read where an index scan begins at the end of a page.
MOST_GROWTH = 3.0
HOT_TABLES = (
    *("lane_offsets", "partition_watermarks", "failure_windows", "queues"),
    *("generation_offsets", "generation_windows", "generation_paces", "generations"),
)

READ_BLOCKS = Statement(
    "read_blocks",
    """
    SELECT relname::text, heap_blks_hit + heap_blks_read + coalesce(idx_blks_hit + idx_blks_read, 0)
    FROM pg_statio_all_tables WHERE schemaname = $1
    """,
    ("text",),
)
COUNT_LANES = Statement("count_lanes", "SELECT count(*) FROM sluice.lane_offsets")


class Rounds:
    """Rounds of a worker and a bridge: one batch, some reads of the progress, one new watermark.

    There are several queues, with the lanes of one partition. The batches are for the first queue. Each batch
    changes the failure window of its queue, because the window is not full. A retired generation is kept in
    sync. Its failure window contains a failure, so that each batch changes it.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.bridge = progress.ProgressSession(bench.database_url, application_name="test bridge")
        bench.looking.command(f"UPDATE sluice.entities SET shards = {QUEUES}")
        register_topic(self.bridge, TopicStart(TOPIC, TOPIC_ID, "thing", QUEUES, {0: 0}))
        for table in HOT_TABLES:
            # Postgres would count the pages that autovacuum reads.
            bench.looking.command(f"ALTER TABLE sluice.{table} SET (autovacuum_enabled = off)")
        self.beat = Session(bench.database_url, application_name="test beat", plans=QUEUE_PLANS)
        self.next = 0
        self.offsets: dict[int, int | None] = dict.fromkeys(range(1, QUEUES))
        number = bench.begin()
        assert bench.rebuild(number)
        assert bench.swap(number) == RETIRED[1]
        generation_pace.set_pace(bench.session, *RETIRED, paused=False, rate=1_000_000)
        with bench.session.transaction():
            self._write_other_lanes()
        self.keys = (key for n in count() if shard_of((key := f"key-{n}").encode(), QUEUES) == 0)
        self._apply(REFUSED_AMOUNT)

    def close(self) -> None:
        self.bridge.close()
        self.beat.close()

    def _apply(self, amount: int) -> None:
        event = thing_set(self.next, next(self.keys), amount)
        assert self.bench.apply(slice_of([event], self.next - 1)) is not None
        self.next += 1

    def run(self, rounds: int) -> Counter[str]:
        """Returns table → pages that the statements of these rounds read."""
        before = self._blocks()
        for _ in range(rounds):
            self._apply(1)
            for _ in range(3):
                [read] = progress.read_assignments(self.bridge, [PLACE]).values()
                assert read.applied[QUEUE] == self.next - 1
            with self.bridge.transaction(progress.ONE_SNAPSHOT):
                progress.raise_watermarks(self.bridge, {PLACE: (1, self.next)})
            [read] = progress.read_assignments(self.bridge, [PLACE]).values()
            assert read.watermark == self.next
            self._fill()
        return self._blocks() - before

    def _fill(self) -> None:
        # The reads and locks of beat and of a rebuild.
        session = self.bench.session
        assert generation_lag.read_lagging(self.beat) == []
        partition = generation_lag.read_partition(session, *RETIRED, *PLACE)
        assert partition is not None
        assert partition.lanes[QUEUE] == (self.next - 1, self.next - 1)
        with session.transaction():
            assert generation_lanes.lock_lanes(session, *RETIRED, QUEUE, [PLACE]) == {PLACE: self.next - 1}
        assert generation_pace.take_pace(session, *RETIRED, 1) > 0

    def write_versions(self, versions: int) -> None:
        """Writes progress so many times, as rounds do, but without events."""
        windows = cycle([QueueRow(None, ".", 0), QueueRow(None, "x", 0)])
        before = next(windows)
        with self.bench.session.transaction():
            for _ in range(versions):
                step = guard.LaneStep(*PLACE, self.next - 1, self.next, {})
                guard.advance_lanes(self.bench.session, QUEUE, 1, [step])
                guard.update_queue(self.bench.session, QUEUE, before, after := next(windows))
                before = after
                own = GenerationStep(*PLACE, self.next - 1, self.next, {})
                generation_lanes.advance_generation(self.bench.session, *RETIRED, QUEUE, [own])
                projection_letters.write_failures(self.bench.session, *RETIRED, QUEUE, "x.")
                self.next += 1
            self._write_other_lanes()
        for watermark in range(self.next - versions + 1, self.next + 1):
            progress.raise_watermarks(self.bridge, {PLACE: (1, watermark)})
            generation_pace.take_pace(self.bench.session, *RETIRED, 1)
        for table in HOT_TABLES:
            # As autovacuum does every minute. The planner then expects few rows in many pages.
            self.bench.looking.command(f"ANALYZE sluice.{table}")

    def _write_other_lanes(self) -> None:
        # Puts the newest versions into the order of the queues, as if each queue had a batch in turn.
        for lane, before in self.offsets.items():
            queue, after = f"thing.{lane}", 0 if before is None else before + 1
            self.offsets[lane] = after
            step = guard.LaneStep(*PLACE, before, after, {})
            guard.advance_lanes(self.bench.session, queue, 1, [step])
            own = GenerationStep(*PLACE, before, after, {})
            generation_lanes.advance_generation(self.bench.session, *RETIRED, queue, [own])
            guard.update_queue(
                self.bench.session, queue, QueueRow(None, "", 0), QueueRow(None, "." * after, 0)
            )

    def _blocks(self) -> Counter[str]:
        for session in (self.bench.session, self.bridge, self.beat):
            session.command("SELECT pg_stat_force_next_flush()")
        self.bench.looking.command("SELECT pg_stat_clear_snapshot()")
        return Counter(dict(self.bench.looking.run(READ_BLOCKS, self.bench.looking.schema)))


def growth_under_an_old_snapshot(database_url: str) -> dict[str, float]:
    """Returns table → the pages that a round reads more after many versions than at first."""
    create(database_url)
    with (
        closing(Bench(database_url)) as bench,
        closing(Rounds(bench)) as rounds,
        closing(Session(database_url, application_name="old")) as old,
    ):
        rounds.run(1)
        old.command("SET idle_in_transaction_session_timeout = 0")
        old.command("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM sluice.queues")
        rounds.write_versions(WARM_VERSIONS)
        early = rounds.run(MEASURED_ROUNDS)
        rounds.write_versions(VERSIONS)
        late = rounds.run(MEASURED_ROUNDS)
        [(kept,)] = old.run(COUNT_LANES)
        assert kept == QUEUES
    return {table: (late[table] - early[table]) / MEASURED_ROUNDS for table in HOT_TABLES}


def test_pages_that_a_round_reads_do_not_grow_under_an_old_snapshot(database_url: str) -> None:
    growth = growth_under_an_old_snapshot(database_url)
    assert {table: pages for table, pages in growth.items() if pages > MOST_GROWTH} == {}


NOT_NEWEST_LANE = ("o.topic DESC, o.partition DESC, o.applied", "o.topic, o.partition, o.applied")
MUTANTS = [
    (guard, "READ_LANES", *NOT_NEWEST_LANE),
    (guard, "ADVANCE_LANE", " AND applied_offset = $5", ""),
    (guard, "READ_LANES", "ORDER BY w.step DESC LIMIT", "ORDER BY w.step + 0 DESC LIMIT"),
    (guard, "WRITE_WINDOW", " AND step = (SELECT step FROM newest)", ""),
    (progress, "READ_ASSIGNMENTS", "ORDER BY o.applied_offset DESC LIMIT", "LIMIT"),
    (progress, "READ_ASSIGNMENTS", "ORDER BY w.epoch DESC, w.watermark DESC LIMIT", "LIMIT"),
    (progress, "RAISE_WATERMARKS", " AND p.watermark = d.before AND", " AND"),
    (progress, "RAISE_WATERMARKS", "p.topic = ANY (ARRAY[d.topic])", "p.topic = d.topic"),
    (generation_lanes, "READ_SYNCED_LANES", *NOT_NEWEST_LANE),
    (generation_lanes, "ADVANCE_GENERATION", "AND applied_offset = $6", ""),
    (generation_lanes, "LOCK_LANE", "ORDER BY applied_offset DESC LIMIT", "LIMIT"),
    (generation_lag, "READ_LAGGING", *NOT_NEWEST_LANE),
    (generation_lag, "READ_LAGGING", "ORDER BY k.applied_offset DESC LIMIT", "LIMIT"),
    (generation_lag, "READ_PARTITION", "ORDER BY o.applied_offset DESC LIMIT", "LIMIT"),
    (generation_lag, "READ_PARTITION", "ORDER BY k.applied_offset DESC LIMIT", "LIMIT"),
    (generations, "READ_PROJECTION_SNAPSHOT", "ORDER BY w.step DESC LIMIT", "ORDER BY w.step + 0 DESC LIMIT"),
    (projection_letters, "WRITE_FAILURES", " AND step = (SELECT step FROM newest)", ""),
    (generation_pace, "LOCK_PACE", "ORDER BY paced_until DESC LIMIT", "LIMIT"),
    (generation_pace, "TAKE_PACE", " AND paced_until = $3", ""),
]


@pytest.mark.parametrize(("module", "statement", "old", "new"), MUTANTS)
def test_a_mutant_that_reads_old_versions_is_caught(
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    module: ModuleType,
    statement: str,
    old: str,
    new: str,
) -> None:
    mutate_statement(monkeypatch, module, statement, old, new)
    assert max(growth_under_an_old_snapshot(database_url).values()) > MOST_GROWTH


def test_a_mutant_with_bitmap_scans_is_caught(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BATCH_PLANS, "enable_bitmapscan", "on")
    assert growth_under_an_old_snapshot(database_url)["lane_offsets"] > MOST_GROWTH
