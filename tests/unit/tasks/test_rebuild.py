"""The decisions of a rebuild that need no database: chunks, pace, refusals and progress."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.admin.rebuild.generation_locks import how_to_get_one
from sluice.admin.rebuild.preflight import (
    Source,
    compacted,
    first_offsets,
    source_refusals,
    swap_refusals,
    table_refusals,
)
from sluice.admin.rebuild.rebuild_progress import reached_of
from sluice.db.projections.checkpoints import CheckpointLane
from sluice.db.projections.generation_lag import LaneState
from sluice.db.projections.generation_tables import TableFacts
from sluice.tasks.rebuild.rebuild_lane import (
    CHUNK_RECORDS,
    CHUNK_SECONDS,
    FEWEST_RECORDS,
    adapted,
    next_chunk,
)

offsets = st.lists(st.integers(0, 2_000), unique=True, max_size=600).map(sorted)


@given(offsets, st.integers(-1, 2_100), st.integers(0, 300), st.integers(1, 300), st.booleans())
def test_a_chunk_never_passes_the_live_generation_and_reaches_it_only_under_the_lock(
    waiting: Sequence[int], live: int, read_on: int, most: int, is_full: bool
) -> None:
    read_through = max([-1, *waiting]) + read_on  # every waiting record was read
    chunk = next_chunk(waiting, live=live, read_through=read_through, most=most, is_full=is_full)
    if chunk is None:
        assert read_through < live, "next_chunk returns None only if more records must be read first"
        assert not is_full or not waiting, "a full buffer gives a chunk"
        return
    assert chunk.records <= most
    assert chunk.reaches <= live
    assert chunk.locked == (chunk.reaches == live)
    assert bisect_right(waiting, chunk.reaches) == chunk.records, (
        "a chunk contains every record up to its end"
    )
    if chunk.locked:
        assert read_through >= live, "every record up to the live offset was read"


@given(offsets, st.integers(0, 2_000))
def test_successive_chunks_reach_the_live_generation_without_gap_or_repeat(log: list[int], live: int) -> None:
    applied, waiting, taken = -1, list(log), []
    while applied < live:
        chunk = next_chunk(waiting, live=live, read_through=3_000)
        assert chunk is not None
        taken += waiting[: chunk.records]
        del waiting[: chunk.records]
        applied = chunk.reaches
    assert taken == [offset for offset in log if offset <= live]


@given(st.integers(FEWEST_RECORDS, CHUNK_RECORDS), st.integers(0, CHUNK_RECORDS), st.floats(0, 10))
def test_a_slow_chunk_is_followed_by_a_smaller_one(most: int, records: int, seconds: float) -> None:
    after = adapted(most, records, seconds)
    assert FEWEST_RECORDS <= after <= CHUNK_RECORDS
    assert (after <= most) if seconds > CHUNK_SECONDS else (after >= most)


def test_progress_counts_each_lane_as_a_share_of_its_partition() -> None:
    lanes = [
        LaneState("t", 0, "q.0", 99, 99),
        LaneState("t", 0, "q.1", 99, -1),
        LaneState("t", 1, "q.0", 9, 9),
    ]
    reached = reached_of(lanes)
    assert (reached.done, reached.total) == (60, 110)
    assert (reached.lagging_lanes, reached.lagging_partitions) == (1, 1)


COLUMNS = ("id", "amount", "version")
TABLE = TableFacts("table", "sluice", dict.fromkeys(COLUMNS, "text"), (), ("totals",), 10, 100)
VIEW = TableFacts("view", "sluice", dict.fromkeys(COLUMNS, "text"), (), ("report",), 0, 0)


@pytest.mark.parametrize(
    ("table", "view", "message"),
    [
        (TABLE, VIEW, None),
        (replace(TABLE, kind=None), VIEW, "totals_g3, which must have the rows"),
        (TABLE, replace(VIEW, kind=None), "totals is missing"),
        (TABLE, replace(VIEW, kind="table"), "totals is no longer a view"),
        (replace(TABLE, columns={"id": "text", "version": "text"}), VIEW, "column amount is declared but"),
        (replace(TABLE, columns={**TABLE.columns, "old": "text"}), VIEW, "column old of totals_g3 is"),
        (TABLE, replace(VIEW, columns={"id": "text"}), "the view totals shows id, the code declares"),
        (replace(TABLE, triggers=("t",)), VIEW, "has the trigger t"),
        (replace(TABLE, readers=("totals", "sales")), VIEW, "sales reads totals_g3 directly"),
        (TABLE, replace(VIEW, owner="else"), "belongs to else"),
    ],
)  # fmt: skip
def test_an_unexpected_table_or_view_refuses_the_rebuild(
    table: TableFacts, view: TableFacts, message: str | None
) -> None:
    found = list(table_refusals("totals", 3, COLUMNS, table, view))
    assert len(found) == (message is not None)
    assert message is None or message in found[0]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source("a", 0, 0, 10, 9), None),
        (Source("a", 0, 5, 10, 9), "a[0] begins at offset 5"),
        (Source("a", 0, 5, 10, 9, first=5), None),
        (Source("a", 0, 7, 10, 9, first=5), "start from a checkpoint that covers them"),
        (Source("a", 0, 5, 5, -1), None),
        (Source("a", 0, None, None, 9), "topic a no longer exists in Kafka"),
    ],
)
def test_missing_records_in_kafka_refuse_the_rebuild(source: Source, message: str | None) -> None:
    found = list(source_refusals([source], ["a"], ["a"]))
    assert len(found) == (message is not None)
    assert message is None or message in found[0]


def test_an_applied_topic_that_no_module_declares_is_refused() -> None:
    [refusal] = source_refusals([], ["a"], ["a", "b"])
    assert (
        "records of topic b were applied, but no module of SLUICE_HANDLERS declares it: declare it" in refusal
    )
    assert (
        "in development you can begin with an empty database instead: `sluice stack down --wipe`" in refusal
    )


@pytest.mark.parametrize(
    ("differing", "against", "approved", "deaths", "message"),
    [
        (0, 1, False, 0, None),
        (5, 1, True, 0, None),
        (None, None, False, 0, "never compared"),
        (5, 1, False, 0, "differs in 5 rows and is not approved: run `sluice rebuild approve sums --reason"),
        (0, 2, True, 0, "compared with generation 2, but generation 1 is live"),
        (0, 1, False, 3, "3 events of the live generation failed in this generation or had to wait"),
    ],
)
def test_a_swap_is_refused_without_a_valid_comparison_or_with_failed_events(
    differing: int | None, against: int | None, approved: bool, deaths: int, message: str | None
) -> None:
    found = list(
        swap_refusals(
            "sums", 2, differing=differing, against=against, live=1, approved=approved, deaths=deaths
        )
    )
    assert len(found) == (message is not None)
    assert message is None or message in found[0]


def test_a_rebuild_reads_a_partition_from_the_offset_of_its_slowest_lane() -> None:
    lanes = [
        CheckpointLane("t", 0, "q.0", 1, 7),
        CheckpointLane("t", 0, "q.1", 1, 4),
        CheckpointLane("t", 1, "q.0", 1, -1),
    ]
    assert first_offsets(lanes) == {("t", 0): 5, ("t", 1): 0}


def test_a_topic_with_the_policies_compact_and_delete_counts_as_compacted() -> None:
    configs = {"a": {"cleanup.policy": "delete"}, "b": {"cleanup.policy": "compact,delete"}, "c": {}}
    assert compacted(configs) == ["b"]


def test_without_a_ready_generation_the_refusal_names_how_to_get_a_generation() -> None:
    assert how_to_get_one("sums", ["live"], ["ready"]) == (
        ': start one by `sluice rebuild start sums --reason "…"`'
    )
    assert "wait for the one that is building" in how_to_get_one("sums", ["live", "building"], ["ready"])
    assert how_to_get_one("sums", ["live"], ["stopped"]) == "", "a rebuild makes no stopped generation"
