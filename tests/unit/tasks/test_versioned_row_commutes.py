"""Writes with different versions result in the same row in any order. The test finds two mutants."""

from collections.abc import Callable, Iterator, Mapping
from itertools import permutations
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from sluice.db.tables import Shape, shape_of
from sluice.tasks.fold import versioned_row
from sluice.tasks.fold.versioned_row import ABSENT, Row, WriteResult
from tests.unit.tasks.strategies import FIRST_WINS, MERGED, few_values, whole

INT, LAST, FIRST = shape_of(MERGED["integer"]), shape_of(MERGED["timestamp"]), shape_of(FIRST_WINS)
SHAPES = [INT, LAST, FIRST]

Upserter = Callable[[Shape, Row, Mapping[str, Any], int | None], tuple[WriteResult, Row]]


class Write(NamedTuple):
    """One versioned write: `values` is None for a Delete."""

    verb: str
    version: int
    values: Mapping[str, Any]


def write(version: int) -> st.SearchStrategy[Write]:
    return st.builds(Write, st.sampled_from(("upsert", "merge", "delete")), st.just(version), few_values)


def writes(count: int) -> st.SearchStrategy[list[Write]]:
    """Draws writes, each with its own version."""
    versions = st.permutations(range(count))
    return versions.flatmap(lambda numbers: st.tuples(*map(write, numbers)).map(list))


def apply_writes(
    shape: Shape, sequence: tuple[Write, ...] | list[Write], upsert: Upserter = versioned_row.upsert
) -> tuple[list[WriteResult], Row]:
    row, results = ABSENT, []
    for one in sequence:
        if one.verb == "upsert":
            result, row = upsert(shape, row, whole(MERGED[shape.versions], one.values), one.version)
        elif one.verb == "merge":
            result, row = versioned_row.merge(shape, row, one.values, one.version)
        else:
            result, row = versioned_row.delete(shape, row, one.version)
        results.append(result)
    return results, row


def observable(row: Row) -> tuple[Any, ...]:
    """Returns the part of a row that affects later writes.

    An absent row has only its tombstone. A present row has its values and versions, and True if its tombstone
    equals its base version.
    """
    if row.values is None:
        return (None, row.tombstone)
    cut = row.tombstone is not None and row.tombstone == row.version
    return (dict(row.values), row.version, dict(row.field_versions), cut)


def orders(written: list[Write]) -> Iterator[tuple[Write, ...]]:
    """Yields every order of arrival. Then yields every order in which one write is repeated later."""
    yield from permutations(written)
    for order in permutations(written):
        for i, again in enumerate(order):
            for place in range(i + 1, len(order) + 1):
                yield (*order[:place], again, *order[place:])


def endings(
    shape: Shape, written: list[Write], upsert: Upserter = versioned_row.upsert
) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for order in orders(written):
        ending = observable(apply_writes(shape, order, upsert)[1])
        if ending not in found:
            found.append(ending)
    return found


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("count", [2, 3])
def test_writes_with_different_versions_result_in_the_same_row_in_any_order(shape: Shape, count: int) -> None:
    @settings(max_examples=250, deadline=None, print_blob=True)
    @given(writes(count))
    def holds(written: list[Write]) -> None:
        assert len(endings(shape, written)) == 1

    holds()


def writes_of_few_versions(count: int) -> st.SearchStrategy[list[Write]]:
    """Draws writes, several of them with the same version."""
    return st.lists(st.integers(1, 2).flatmap(write), min_size=count, max_size=count)


@pytest.mark.parametrize("count", [2, 3])
def test_equal_versions_first_wins_has_the_same_result_as_last_wins_in_reversed_order(count: int) -> None:
    @settings(max_examples=250, deadline=None, print_blob=True)
    @given(writes_of_few_versions(count))
    def holds(written: list[Write]) -> None:
        # The fourth value marks a row after a Delete; it has no effect where the last write wins.
        (first_results, first), (last_results, last) = (
            apply_writes(FIRST, written),
            apply_writes(LAST, written[::-1]),
        )
        assert observable(first)[:3] == observable(last)[:3]
        assert WriteResult.CONFLICT not in first_results + last_results

    holds()


@settings(max_examples=250, deadline=None, print_blob=True)
@given(writes_of_few_versions(3))
def test_a_repeated_write_changes_nothing_where_the_first_write_wins(written: list[Write]) -> None:
    _, row = apply_writes(FIRST, written)
    for again in written:
        results, after = apply_writes(FIRST, [*written, again])
        assert observable(after) == observable(row)
        assert results[-1] in (WriteResult.STALE, WriteResult.DUPLICATE)


@settings(max_examples=40, deadline=None, print_blob=True)
@given(writes(4))
def test_four_writes_result_in_the_same_row_in_any_order(written: list[Write]) -> None:
    first, *others = (observable(apply_writes(INT, order)[1]) for order in permutations(written))
    assert all(other == first for other in others)


def forgetful_upsert(
    shape: Shape, row: Row, values: Mapping[str, Any], version: int | None
) -> tuple[WriteResult, Row]:
    """A mutant that overwrites merged fields of any version."""
    return versioned_row.upsert(shape, row._replace(field_versions={}), values, version)


def credulous_upsert(
    shape: Shape, row: Row, values: Mapping[str, Any], version: int | None
) -> tuple[WriteResult, Row]:
    """A mutant that ignores the tombstone."""
    return versioned_row.upsert(
        shape, row._replace(tombstone=None) if row.values is None else row, values, version
    )


@pytest.mark.parametrize("mutant", [forgetful_upsert, credulous_upsert])
def test_the_property_catches_a_mutant(mutant: Upserter) -> None:
    quiet = settings(
        max_examples=300, deadline=None, database=None, derandomize=True, phases=[Phase.generate]
    )
    caught = find(writes(2), lambda written: len(endings(INT, written, mutant)) > 1, settings=quiet)
    assert len(endings(INT, caught)) == 1
