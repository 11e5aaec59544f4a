"""The number of synchronous standbys that the setting of Postgres requires."""

import pytest

from sluice.admin.doctor.rules_server import count_needed


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        ("", 0), (" ", 0), ("a", 1), ("a, b", 1), ("*", 1), ("FIRST 2 (a, b, c)", 2), ("first 1 (a)", 1),
        ("ANY 3 (a,b,c)", 3), ("2 (a, b)", 2), ('"2 (a"', 1), ("any", 1),
    ],
)  # fmt: skip
def test_the_number_of_standbys_that_a_commit_requires_is_read_from_the_setting(
    names: str, needed: int
) -> None:
    assert count_needed(names) == needed
