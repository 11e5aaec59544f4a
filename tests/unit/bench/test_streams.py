"""Streams have the composition that the bench claims, and the result that it expects of them."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.events import BLOCK, BenchEvent, Expected, Kind
from bench.streams import ALL_NEW, MIXED, SIZES, WRITES, Stream

seeds = st.integers(0, 2**32)
few = settings(max_examples=10)  # thousands of events each


@few
@given(seed=seeds)
def test_the_shares_of_each_kind_in_ten_thousand_mixed_events_are_exact(seed: int) -> None:
    kinds = Counter(event.kind for event in MIXED.events(10 * BLOCK, seed=seed))
    assert kinds == {
        Kind.NEW: 9_690,
        Kind.STALE: 200,
        Kind.REPEATED: 100,
        Kind.REJECTED: 9,
        Kind.VIOLATING: 1,
    }


@few
@given(seed=seeds, count=st.integers(0, 3 * BLOCK))
def test_each_mixed_event_is_what_its_kind_says(seed: int, count: int) -> None:
    seen: dict[bytes, BenchEvent] = {}
    newest: dict[str, int] = {}
    for event in MIXED.events(count, seed=seed):
        amount = json.loads(event.value)["data"]["amount_cents"]
        match event.kind:
            case Kind.REPEATED:
                assert seen[event.value].key == event.key
                continue
            case Kind.STALE:
                # An equal version with other values would be a conflict, not stale.
                assert event.version < newest[event.key]
                assert event.version % 2 == 1
            case Kind.NEW:
                assert event.version > newest.get(event.key, 0)
                assert amount >= 0
                newest[event.key] = event.version
            case Kind.REJECTED | Kind.VIOLATING:
                assert event.key not in newest
                assert amount < 0
        assert json.loads(event.value)["version"] == event.version
        assert event.value not in seen
        seen[event.value] = event


@few
@given(seed=seeds)
def test_a_stream_without_poison_is_the_rest_of_the_same_events(seed: int) -> None:
    rest = [event for event in MIXED.events(2 * BLOCK, seed=seed) if not event.kind.is_poison]
    assert list(MIXED.events(2 * BLOCK, seed=seed, with_poison=False)) == rest
    assert len(rest) == 2 * BLOCK - 2


@few
@given(seed=seeds, count=st.integers(0, 2 * BLOCK))
def test_expected_counts_agree_with_the_events(seed: int, count: int) -> None:
    expected = Expected()
    events = list(expected.watch(MIXED.events(count, seed=seed)))
    assert expected.events == expected.outcomes.total() == count
    assert expected.identities == len({json.loads(event.value)["event_id"] for event in events})
    assert expected.applied == expected.outcomes["applied"]
    assert set(expected.outcomes) <= {"applied", "stale", "duplicate", "dead"}


@pytest.mark.parametrize(("stream", "kilobytes"), list(zip(SIZES, (1, 10, 100), strict=True)))
def test_values_have_the_claimed_size(stream: Stream, kilobytes: int) -> None:
    for event in stream.events(20, seed=1):
        assert len(event.value) == pytest.approx(kilobytes * 1_000, rel=0.02)


def test_an_event_names_the_number_of_its_writes() -> None:
    written = [json.loads(next(s.events(1, seed=1)).value)["data"].get("writes", 1) for s in WRITES]
    assert written == [1, 3, 10]


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert list(ALL_NEW.events(50, seed=7)) == list(ALL_NEW.events(50, seed=7))
    assert list(ALL_NEW.events(50, seed=7)) != list(ALL_NEW.events(50, seed=8))
