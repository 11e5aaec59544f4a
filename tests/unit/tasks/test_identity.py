"""Identities and content hashes are equal for equal parts and different for different parts."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.tasks.events import identity
from sluice.tasks.events.identity import event_identity, hash_content, hash_raw, read_key, record_identity

Parts = tuple[str, str | None, bytes | None, str]

# Only two letters, so that Hypothesis often draws the same text, split at other positions.
_TEXT = st.text("ab", max_size=4)
_PARTS = st.tuples(_TEXT, st.none() | _TEXT, st.none() | _TEXT.map(str.encode), _TEXT)

ALIKE: list[tuple[str, Parts, Parts]] = [
    ("key and id split elsewhere", ("t", None, b"ab", "c"), ("t", None, b"a", "bc")),
    ("topic and source split elsewhere", ("ab", "c", b"k", "i"), ("a", "bc", b"k", "i")),
    ("source and key swapped", ("t", "x", b"y", "i"), ("t", "y", b"x", "i")),
    ("null and empty source", ("t", None, b"k", "i"), ("t", "", b"k", "i")),
    ("null and empty key", ("t", None, None, "i"), ("t", None, b"", "i")),
    ("null source or null key", ("t", None, b"", "i"), ("t", "", None, "i")),
    ("a key that looks like null", ("t", None, b"\xff" * 8, "i"), ("t", None, None, "i")),
    ("keys that are not text", ("t", None, b"\xff", "i"), ("t", None, b"\xfe", "i")),
]
_ALIKE = pytest.mark.parametrize(
    ("one", "other"), [case[1:] for case in ALIKE], ids=[case[0] for case in ALIKE]
)


@_ALIKE
def test_similar_events_have_different_identities(one: Parts, other: Parts) -> None:
    assert event_identity(*one) != event_identity(*other)


@given(_PARTS, _PARTS)
def test_identities_are_equal_if_and_only_if_all_parts_are_equal(one: Parts, other: Parts) -> None:
    assert (event_identity(*one) == event_identity(*other)) == (one == other)


def test_a_mutant_without_lengths_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_length", lambda _: b"")
    with pytest.raises(AssertionError):
        test_similar_events_have_different_identities(*ALIKE[0][1:])


def test_a_mutant_that_treats_null_as_empty_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    identity._event_hash.cache_clear()
    monkeypatch.setattr(identity, "_NULL", (0).to_bytes(8, "big"))
    with pytest.raises(AssertionError):
        test_similar_events_have_different_identities(*ALIKE[3][1:])
    identity._event_hash.cache_clear()


def test_an_identity_never_changes() -> None:
    # Postgres stores identities. If the algorithm changes, every stored event counts as new.
    assert event_identity("orders", None, b"order-99", "e1").hex == "5f014cef32d1c429c44be5053b4331e1"
    assert record_identity("Zm9v", 3, 5).hex == "b57e23795e2514de38c9427b819617e4"
    assert hash_content("order.placed", 7, b"{}").hex == "f9c03e8ec51a9ffcc95d9fd65be00cf7"
    assert hash_raw(b"x").hex == "dfb812e137bf8717ad0b8c51be4d2fde"


def test_a_record_without_id_is_identified_by_topic_partition_and_offset() -> None:
    places = [("t", 1, 23), ("t", 12, 3), ("t1", 2, 3), ("t", 1, 24)]
    assert len({record_identity(*place) for place in places}) == len(places)


def test_the_content_hash_covers_type_version_and_data() -> None:
    at = datetime(2024, 5, 1, tzinfo=UTC)
    contents = [
        ("a", None, b"{}"),
        ("b", None, b"{}"),
        ("a", 1, b"{}"),
        ("a", 11, b"{}"),
        ("a", at, b"{}"),
        ("a", None, b'{"b":1}'),
    ]
    assert len({hash_content(*content) for content in contents}) == len(contents)
    assert hash_raw(None) != hash_raw(b"")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (None, None),
        (b"", ""),
        (b"acc-42", "acc-42"),
        ("ключ".encode(), "ключ"),
        (b"\xff", None),
        (b"\xed\xa0\x80", None),
        (b"a\0b", None),
        ("é".encode() * 255, "é" * 255),
        (b"x" * 256, None),
        (b"x" * 12_000, None),
    ],
)
def test_only_a_readable_key_names_an_entity(key: bytes | None, text: str | None) -> None:
    assert read_key(key) == text
