"""The records that an erasure covers, and the hashes that replace erased keys."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.tasks.apply.erasures import Erasure, erased_effect_key, hash_key

AT = datetime(2026, 1, 1, tzinfo=UTC)
AT_MS = AT.timestamp() * 1000
ERASURE = Erasure({"measured": {0: 5}}, AT)


@pytest.mark.parametrize(
    ("topic_id", "partition", "offset", "milliseconds", "covered"),
    [
        ("measured", 0, 4, AT_MS + 1, True),
        ("measured", 0, 5, AT_MS - 1, False),
        # A partition that was added after the erasure; all its records are newer.
        ("measured", 1, 0, AT_MS - 1, False),
        ("other", 0, 9, AT_MS, True),
        ("other", 0, 0, AT_MS + 1, False),
    ],
)
def test_an_erasure_covers_the_records_before_it(
    topic_id: str, partition: int, offset: int, milliseconds: float, covered: bool
) -> None:
    assert ERASURE.covers(topic_id, partition, offset, milliseconds) is covered


KEYS = st.binary(min_size=32, max_size=32)


@given(KEYS, st.text(max_size=9), st.text(max_size=9), st.text(max_size=9), st.text(max_size=9))
def test_the_hashes_of_two_entities_differ(key: bytes, one: str, two: str, three: str, four: str) -> None:
    same = (one, two) == (three, four)
    assert (hash_key(key, one, two) == hash_key(key, three, four)) is same
    assert hash_key(key, one, two) != hash_key(bytes(31) + b"1", one, two) or key == bytes(31) + b"1"


@given(KEYS, st.text(), st.text())
def test_the_replacement_keys_of_two_calls_differ(key: bytes, one: str, two: str) -> None:
    assert (erased_effect_key(key, one) == erased_effect_key(key, two)) is (one == two)
    assert erased_effect_key(key, one) != f"erased:{hash_key(key, '', one).hex}"
