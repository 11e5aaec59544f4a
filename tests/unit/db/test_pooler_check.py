"""A pooler that shares backends is recognised by the pids that two connections read."""

import pytest

from sluice.db.pooler_check import shares_backends


@pytest.mark.parametrize(
    ("first", "second"),
    [([1, 1], [1, 1]), ([1, 2], [3, 3]), ([1, 1], [2, 3]), ([1, 2, 1], [2, 1, 2]), ([1, 1], [2, 1])],
)
def test_shared_backends_are_recognised_by_their_pids(first: list[int], second: list[int]) -> None:
    assert shares_backends(first, second)


def test_two_connections_with_a_backend_each_are_accepted() -> None:
    assert not shares_backends([1, 1, 1], [2, 2, 2])
