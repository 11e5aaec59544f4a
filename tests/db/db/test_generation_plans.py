"""Lookups in the records of a generation use indexes, even if there are many records."""

from typing import Any
from uuid import UUID

from sluice.db.connection import BATCH_PLANS
from sluice.db.projections.generation_records import FIND_EVENTS, LOAD_KNOWN
from tests.db.tasks import projecting
from tests.db.tasks.projecting import Bench
from tests.db.tasks.recording import RecordingSession

bench = projecting.bench

ROWS = 20_000
PAGES_PER_EVENT = 20
EVENTS = 10
HISTORY = f"""
    INSERT INTO sluice.generation_identities
        SELECT 'totals', 1, gen_random_uuid() FROM generate_series(1, {ROWS});
    INSERT INTO sluice.generation_spans
        SELECT 'totals', 1, 'things', 0, 'thing.0', n - 1, n, ARRAY[n::bigint]
        FROM generate_series(1, {ROWS}) AS n;
    INSERT INTO sluice.processed_events (identity, data_hash, outcome, topic, topic_id, partition, "offset")
        SELECT gen_random_uuid(), gen_random_uuid(), 'applied', 'things', 't', 0, n
        FROM generate_series(1, {ROWS}) AS n
"""


def test_a_lookup_reads_a_limited_number_of_pages_per_event(bench: Bench) -> None:
    bench.looking.command(HISTORY)
    bench.looking.command("ANALYZE")
    rows = bench.look(f"SELECT identity FROM sluice.processed_events LIMIT {EVENTS}")
    identities = "{" + ",".join(str(UUID(str(one))) for (one,) in rows) + "}"
    topics, partitions = ("{" + ",".join([value] * EVENTS) + "}" for value in ("things", "0"))
    offsets = "{" + ",".join(str(n * 1_000) for n in range(1, EVENTS + 1)) + "}"
    session = RecordingSession(bench.database_url, application_name="test plans", plans=BATCH_PLANS)
    session.ran = []
    for statement, values in (
        (LOAD_KNOWN, ("totals", 1, identities)),
        (FIND_EVENTS, ("totals", 1, "thing.0", identities, topics, partitions, offsets)),
    ):
        assert len(session.run(statement, *values)) == EVENTS
        plan: dict[str, Any] = session.explain(statement, values)
        pages = int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
        assert pages < EVENTS * PAGES_PER_EVENT, statement.name
    session.close()
