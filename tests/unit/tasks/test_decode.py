"""Decoding of records: every envelope, the identity of repeated events, and arbitrary input."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sluice.tasks.api import FieldNames, JsonObject
from sluice.tasks.events.decode import DecodeError
from sluice.tasks.events.identity import event_identity, hash_content
from sluice.tasks.events.strict_json import canonical, check_keys_exactly, parse_object
from tests.unit.tasks.records import (
    CLOUD,
    COORDINATES,
    STRUCTURED,
    TEN,
    TOPIC,
    Headers,
    body,
    cloud,
    nested,
    plain,
    read,
)

GOOD_DATA: list[tuple[str, bytes, JsonObject]] = [
    ("an empty object", b"{}", {}),
    ("a pair of surrogates", rb'{"a":"\ud83d\ude00"}', {"a": "😀"}),
    ("an escaped backslash before u0000", rb'{"a":"\\u0000"}', {"a": "\\u0000"}),
    ("bigint bounds", b'{"a":[9223372036854775807,-9223372036854775808]}', {"a": [2**63 - 1, -(2**63)]}),
    ("long digits in text", b'{"a":"99999999999999999999"}', {"a": "9" * 20}),
    ("many digits of a float", b'{"a":12345678901234567890.5}', {"a": 12345678901234567890.5}),
    ("a float with no fraction", b'{"a":1.0}', {"a": 1.0}),
    ("many brackets, flat", b'{"a":[' + b"{}," * 99 + b'"[[["]}', {"a": [*({} for _ in range(99)), "[[["]}),
    ("colons", rb'{":":"::","\u003a\u003A":":"}', {":": "::", "::": ":"}),
    ("the same key on two levels", b'{"a":{"a":[{"a":1},{"a":1}]}}', {"a": {"a": [{"a": 1}, {"a": 1}]}}),
    ("white space", b' { "a" :\r\n\t1 } ', {"a": 1}),
]


@pytest.mark.parametrize(("raw", "data"), [c[1:] for c in GOOD_DATA], ids=[c[0] for c in GOOD_DATA])
def test_the_strict_parser_accepts_valid_data(raw: bytes, data: JsonObject) -> None:
    decoded = read(plain(raw))
    assert decoded.error is None
    assert decoded.event is not None
    assert repr(decoded.event.data) == repr(data)


def test_depth_64_is_the_deepest_that_is_accepted() -> None:
    assert read(plain(nested(64))).error is None


def test_a_plain_event_is_read_by_field_names() -> None:
    decoded = read(
        plain(occurred_at="2024-05-01T12:00:00.123456789+02:00"), [("traceparent", b"00"), ("x", None)]
    )
    event = decoded.event
    assert event is not None
    assert (event.id, event.type, event.key, event.version) == ("e1", "balance.set", "acc-42", 7)
    assert (event.time, event.data) == (TEN.replace(microsecond=123456), {"a": 1})
    assert (event.topic, event.partition, event.offset) == ("balances", 3, 7)
    assert event.headers == (("traceparent", b"00"), ("x", None))
    assert decoded.identity == event_identity("balances", None, b"acc-42", "e1")
    assert decoded.data_hash == hash_content("balance.set", 7, b'{"a":1}')
    assert (decoded.event_id, decoded.type, decoded.source) == ("e1", "balance.set", None)


def test_a_topic_can_choose_its_field_names_and_use_the_whole_object_as_data() -> None:
    topic = replace(TOPIC, fields=FieldNames("id", "kind", "rev", "at", "payload"))
    raw = {"id": "e9", "kind": "k", "rev": -3, "at": "2024-05-01T10:00:00z", "data": 1}
    event = read(json.dumps(raw).encode(), topic=topic).event
    assert event is not None
    assert (event.id, event.type, event.version, event.time, event.data) == ("e9", "k", -3, TEN, raw)


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_both_modes_of_cloudevents_decode_to_the_same_event(mode: str) -> None:
    if mode == "binary":
        headers = [*cloud(time=b"2024-05-01T10:00:00Z", version=b"41", subject=b"s"), ("traceparent", b"00")]
        decoded = read(b'{"a":1}', headers)
    else:
        decoded = read(body(time="2024-05-01T10:00:00Z", version=41), [*STRUCTURED, ("traceparent", b"00")])
    event = decoded.event
    assert event is not None, decoded.error
    assert (event.id, event.type, event.version, event.time) == ("e1", "balance.set", 41, TEN)
    assert event.data == {"a": 1}
    assert ("traceparent", b"00") in event.headers
    assert not [name for name, _ in event.headers if name.startswith("ce_")]
    assert decoded.identity == event_identity("balances", "/shop", b"acc-42", "e1")
    assert decoded.source == "/shop"


VERSIONS: list[tuple[bytes, Headers, object]] = [
    (plain(version=None), [], None),
    (plain(version=-(2**63)), [], -(2**63)),
    (plain(version="2024-05-01T10:00:00Z"), [], TEN),
    (plain(version="2024-05-01T10:00:00.5+00:00"), [], TEN.replace(microsecond=500_000)),
    (plain(version="2024-05-01T10:00:00.123456000Z"), [], TEN.replace(microsecond=123_456)),
    (plain(version="2024-05-01T05:30:00-04:30"), [], TEN),
    (b"{}", cloud(), None),
    (b"{}", cloud(version=None), None),
    (b"{}", cloud(version=b"-9223372036854775808"), -(2**63)),
    (b"{}", cloud(version=b"2024-05-01T12:00:00+02:00"), TEN),
    (body(version="41"), STRUCTURED, 41),
    (body(version=2**63 - 1), STRUCTURED, 2**63 - 1),
    (body(version="2024-05-01T10:00:00Z"), STRUCTURED, TEN),
]


@pytest.mark.parametrize(("value", "headers", "version"), VERSIONS)
def test_a_version_is_an_integer_or_a_point_in_time(value: bytes, headers: Headers, version: object) -> None:
    decoded = read(value, headers)
    assert decoded.event is not None, decoded.error
    assert decoded.event.version == version
    assert type(decoded.event.version) is type(version)
    assert not isinstance(decoded.event.version, datetime) or decoded.event.version.tzinfo is UTC


def test_a_null_value_is_a_tombstone() -> None:
    decoded = read(None)
    assert decoded.event is not None
    assert (decoded.event.type, decoded.event.id, decoded.event.data) == ("account.deleted", None, {})
    assert (decoded.event.version, decoded.identity) == (None, COORDINATES)
    told = read(None, [*CLOUD, ("ce_version", b"9")], topic=replace(TOPIC, tombstone_type="account.closed"))
    assert told.event is not None
    assert (told.event.type, told.event.id, told.event.version) == ("account.closed", "e1", 9)
    assert told.identity == event_identity("balances", "/shop", b"acc-42", "e1")


def test_an_event_with_an_unreadable_key_has_an_identity_but_no_entity() -> None:
    first, second, none = read(plain(), key=b"\xff"), read(plain(), key=b"\xfe"), read(plain(), key=None)
    assert first.event is not None
    assert first.entity_key is first.event.key is none.entity_key is None
    assert len({first.identity, second.identity, none.identity, read(plain(), key=b"").identity}) == 4


def test_a_retry_with_other_headers_time_and_layout_is_the_same_event() -> None:
    first = read(plain(b'{"a":1,"b":{"x":1,"y":"\xc3\xa9"}}', occurred_at="2024-05-01T10:00:00Z"))
    again = read(plain(rb'{ "b":{"y":"\u00e9", "x":1}, "a":1 }'), [("traceparent", b"1")])
    assert (first.identity, first.data_hash) == (again.identity, again.data_hash)
    others = [plain(b'{"a":2}'), plain(version=8), plain(type="other"), plain(b'{"a":1.0}')]
    assert read(plain()).data_hash not in {read(other).data_hash for other in others}


_NAMES = st.sampled_from(["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_version", "content-type"])
_VALUES = st.none() | st.binary(max_size=8) | st.sampled_from([b"1.0", b"7", STRUCTURED[0][1]])
_HEADERS = st.lists(st.tuples(_NAMES | st.text(max_size=3), _VALUES), max_size=8)
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
)
_KEYS = st.text('ab:"\\é', max_size=3)
_OBJECTS = st.dictionaries(
    _KEYS,
    st.recursive(
        _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3)
    ),
    max_size=4,
)
# Fragments of JSON in any order are almost valid JSON; random bytes never are.
_BITS = st.lists(st.sampled_from([*'{}[],:"ae01.-\\ ', '"a":', '"type":"t"', r"\u003a", r"\u0000", "null"]))


@given(
    st.none() | st.binary() | _BITS.map("".join).map(str.encode), _HEADERS, st.none() | st.binary(max_size=3)
)
def test_decoding_never_raises(value: bytes | None, headers: Headers, key: bytes | None) -> None:
    decoded = read(value, headers, key)
    assert (decoded.event is None) != (decoded.error is None)
    assert decoded == read(value, headers, key) or decoded.error is not None


@given(_OBJECTS)
def test_an_encoded_object_is_parsed_to_the_same_object(data: JsonObject) -> None:
    for raw in (json.dumps(data), json.dumps(data, ensure_ascii=False), json.dumps(data, indent=1)):
        assert repr(parse_object(raw.encode())) == repr(data)


def _reversed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed(inner) for key, inner in reversed(value.items())}
    return [_reversed(inner) for inner in value] if isinstance(value, list) else value


@given(_OBJECTS)
def test_order_and_layout_do_not_change_the_canonical_form(data: JsonObject) -> None:
    other = json.dumps(_reversed(data), indent=2, ensure_ascii=False).encode()
    assert canonical(parse_object(other)) == canonical(data)


@given(st.lists(st.tuples(st.sampled_from([r"a", r"b", r":", r"\u003a", r"\u0061", r"\\u003a"]), _OBJECTS)))
@example([(":", {}), (r"\u003a", {})])
def test_the_fast_and_the_exact_check_agree_on_repeated_keys(pairs: list[tuple[str, JsonObject]]) -> None:
    members = [f'"{key}":{json.dumps(value)}' for key, value in pairs]
    raw = f"{{{','.join(members)}}}".encode()
    assert _refuses(parse_object, raw) == _refuses(check_keys_exactly, raw)


def _refuses(check: Any, raw: bytes) -> bool:
    try:
        check(raw)
    except DecodeError:
        return True
    return False
