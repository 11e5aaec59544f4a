"""The fold returns the same rows, outcomes and ids for every division of a log into batches."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Table

from examples.shop import handlers
from examples.shop.generate import KINDS, generate
from sluice.kafka_io.record_types import Record
from sluice.tasks.api import Increment
from sluice.tasks.events.decode import decode
from sluice.tasks.fold.fold_state import FirstSeen, FoldResult
from sluice.tasks.fold.plan import Planned, plan_event
from sluice.tasks.fold.registry import collect_modules
from sluice.tasks.fold.versioned_row import ABSENT, Row
from tests.unit.tasks.scripted import (
    TOPIC_ID,
    event_logs,
    folded,
    fresh_memory,
    outcomes,
    results,
    scripted,
    splits,
)
from tests.unit.tasks.strategies import PLAIN


def _left(rows: dict[tuple[Table, str], Row], table: Table, key: str) -> Row:
    return rows.get((table, key), ABSENT)


def in_batches(
    batches: list[Any], known: Callable[[dict[UUID, FirstSeen]], dict[UUID, FirstSeen]] = dict
) -> tuple[dict[tuple[Table, str], Row], FoldResult]:
    """Folds each batch into its own fold state, which loads the results of the earlier batches."""
    rows: dict[tuple[Table, str], Row] = {}
    identities: dict[UUID, FirstSeen] = {}
    whole = FoldResult()
    for batch in batches:
        made = {call.effect_key: call.fingerprint for call in whole.calls}
        memory = replace(
            fresh_memory(),
            load_row=partial(_left, rows),
            load_effect=made.get,
            identities=known(identities),
        )
        _, result = folded(*batch, memory=memory)
        rows |= memory.rows
        identities |= memory.identities
        whole.settled += result.settled
        whole.emits += result.emits
        whole.calls += result.calls
        whole.call_conflicts += result.call_conflicts
    return rows, whole


@settings(max_examples=150, deadline=None, print_blob=True)
@given(st.data())
def test_every_division_into_batches_results_in_the_same_state(data: st.DataObject) -> None:
    log = data.draw(event_logs(12))
    memory, whole = folded(*log)
    rows, parts = in_batches(data.draw(splits(log)))
    assert rows == memory.rows
    assert results(parts.settled) == results(whole.settled)
    assert (parts.emits, parts.calls, parts.call_conflicts) == (
        whole.emits,
        whole.calls,
        whole.call_conflicts,
    )


def test_a_mutant_without_deduplication_is_caught() -> None:
    log = [scripted(0, Increment(PLAIN, "k", {"count": 1}), identity=1), scripted(1, identity=1)]
    memory, whole = folded(*log)
    assert outcomes(in_batches([log[:1], log[1:]])[1]) == outcomes(whole)
    forgetful = in_batches([log[:1], log[1:]], known=lambda _: {})
    assert outcomes(forgetful[1]) != outcomes(whole)
    forgetful = in_batches([log[:1], log[:1]], known=lambda _: {})
    assert forgetful[0] != memory.rows, "the mutant applies the increment twice"


@settings(max_examples=100, deadline=None, print_blob=True)
@given(event_logs())
def test_an_event_that_is_folded_again_emits_and_calls_with_the_same_ids(log: list[Planned]) -> None:
    memory, first = folded(*log)
    again, second = folded(*log)
    assert memory.rows == again.rows
    assert (first.emits, first.calls) == (second.emits, second.calls)
    assert len({emit.event_id for emit in first.emits}) == len(first.emits), "no two emits share an id"


SHOP = collect_modules([handlers])


@settings(max_examples=60, deadline=None, print_blob=True)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 10**6))
def test_a_second_run_of_the_shops_handlers_yields_the_same_effects(kind: str, seed: int) -> None:
    for offset, made in enumerate(generate(kind, count=5, seed=seed, keys=2)):
        value = None if made.value is None else msgspec.json.encode(made.value)
        topic = SHOP.topics[made.topic]
        decoded = decode(topic, TOPIC_ID, 0, Record(offset, 0, made.key.encode(), value, []))
        one, two = plan_event(SHOP, topic, decoded), plan_event(SHOP, topic, decoded)
        assert one.runs, f"no handler for {made}"
        for first, second in zip(one.runs, two.runs, strict=True):
            assert first.error is None
            assert first.effects == second.effects
        results = [folded(planned)[1] for planned in (one, two)]
        assert (results[0].emits, results[0].calls) == (results[1].emits, results[1].calls)
