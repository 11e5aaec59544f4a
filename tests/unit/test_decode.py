"""Decoding: a record has exactly one reading or none, and never raises."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tasks.api import Entity, FieldNames, JsonObject, Topic
from tasks.decode import Decoded, DecodeError, decode
from tasks.identity import event_identity, hash_content, hash_raw, record_identity
from tasks.strict_json import canonical, check_keys_exactly, parse_object
from tasks.wire import Record

Headers = list[tuple[str, bytes | None]]

TOPIC = Topic("balances", Entity("account"), max_bytes=200_000)
CLOUD: Headers = [
    ("ce_specversion", b"1.0"),
    ("ce_id", b"e1"),
    ("ce_source", b"/shop"),
    ("ce_type", b"balance.set"),
]
STRUCTURED: Headers = [("content-type", b"application/cloudevents+json; charset=UTF-8")]
CLOUD_BODY = {"specversion": "1.0", "id": "e1", "source": "/shop", "type": "balance.set", "data": {"a": 1}}
TEN = datetime(2024, 5, 1, 10, tzinfo=UTC)
COORDINATES = record_identity("topic-id", 3, 7)


def read(
    value: bytes | None, headers: Headers | None = None, key: bytes | None = b"acc-42", topic: Topic = TOPIC
) -> Decoded:
    return decode(topic, "topic-id", 3, Record(7, 1_700_000_000_000, key, value, headers or []))


def plain(data: bytes = b'{"a":1}', **fields: Any) -> bytes:
    """A good event around `data`; fields of None are left out."""
    envelope = {"event_id": "e1", "type": "balance.set", "version": 7} | fields
    named = {name: value for name, value in envelope.items() if value is not None}
    return json.dumps(named).encode()[:-1] + b', "data": ' + data + b"}"


def cloud(**changes: bytes | None) -> Headers:
    """Good headers with some changed (`id=b"…"`)."""
    return list((dict(CLOUD) | {f"ce_{name}": value for name, value in changes.items()}).items())


def body(**changes: Any) -> bytes:
    return json.dumps(CLOUD_BODY | changes).encode()


def nested(depth: int) -> bytes:
    """Data so that the whole event is `depth` levels deep."""
    return b'{"a":' * (depth - 1) + b"1" + b"}" * (depth - 1)


# (what is wrong, value, headers, words of the error)
BAD: list[tuple[str, bytes | None, Headers, str]] = [
    ("NUL byte in a string", plain(b'{"a":"x\0y"}'), [], "no valid JSON"),
    ("NUL byte behind the object", plain() + b"\0", [], "no valid JSON"),
    ("escaped NUL", plain(rb'{"a":"x\u0000y"}'), [], "NUL"),
    ("escaped NUL in a key", plain(rb'{"a":[{"\u0000":1}]}'), [], "NUL"),
    ("escaped NUL in the id", plain(event_id="a\0"), [], "NUL"),
    ("lone surrogate", plain(rb'{"a":"\ud800"}'), [], "no valid JSON"),
    ("lone surrogate before text", plain(rb'{"a":"\ud83dx"}'), [], "no valid JSON"),
    ("lone low surrogate", plain(rb'{"a":"\ude00"}'), [], "no valid JSON"),
    ("lone surrogate in a key", plain(rb'{"\ud800":1}'), [], "no valid JSON"),
    ("surrogate as UTF-8", plain(b'{"a":"\xed\xa0\x80"}'), [], "not UTF-8"),
    ("NaN", plain(b'{"a":NaN}'), [], "no valid JSON"),
    ("Infinity", plain(b'{"a":Infinity}'), [], "no valid JSON"),
    ("-Infinity", plain(b'{"a":-Infinity}'), [], "no valid JSON"),
    ("float overflow", plain(b'{"a":1e400}'), [], "no valid JSON"),
    ("5,000 digits", plain(b'{"a":' + b"9" * 5_000 + b"}"), [], "no valid JSON"),
    ("400 digits", plain(b'{"a":' + b"9" * 400 + b"}"), [], "64 bits"),
    ("2^63", plain(b'{"a":9223372036854775808}'), [], "64 bits"),
    ("-2^63-1", plain(b'{"a":[[-9223372036854775809]]}'), [], "64 bits"),
    ("depth 65", plain(nested(65)), [], "deeper than 64"),
    ("depth 65 of arrays", plain(b'{"a":' + b"[" * 63 + b"]" * 63 + b"}"), [], "deeper than 64"),
    ("depth 100", plain(nested(100)), [], "deeper than 64"),
    ("depth 6,000", plain(nested(6_000)), [], "deeper than 64"),
    ("depth 100,000", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", [], "the topic's limit"),
    ("depth 90,000", b"[" * 90_000 + b"]" * 90_000, [], "deeper than 64"),
    ("repeated key", plain(b'{"a":1,"a":1}'), [], "repeats the key 'a'"),
    ("repeated key, deep", plain(b'{"a":[{"b":1,"c":":","b":2}]}'), [], "repeats the key 'b'"),
    ("repeated key, escaped", plain(rb'{"a":1,"\u0061":2}'), [], "repeats the key 'a'"),
    ("repeated key, a colon escaped", plain(rb'{":":1,"\u003a":"\u003A"}'), [], "repeats the key ':'"),
    ("repeated key, escapes make up for it", plain(rb'{"a":1,"a":"\u003a"}'), [], "repeats the key 'a'"),
    ("repeated key over 900 levels", plain(b'{"a":' + b"[" * 900 + b"]" * 900 + b',"a":1}'), [], ""),
    ("repeated data", plain()[:-1] + b',"data":{}}', [], "repeats the key 'data'"),
    ("invalid UTF-8", plain(b'{"a":"\xff"}'), [], "not UTF-8"),
    ("overlong UTF-8", plain(b'{"a":"\xc0\x80"}'), [], "not UTF-8"),
    ("byte order mark", b"\xef\xbb\xbf" + plain(), [], "no valid JSON"),
    ("UTF-16", plain().decode().encode("utf-16"), [], "no valid JSON"),
    ("UTF-32", plain().decode().encode("utf-32-le"), [], "no valid JSON"),
    ("empty value", b"", [], "no valid JSON"),
    ("null", b"null", [], "found null"),
    ("scalar", b"17", [], "found a number"),
    ("boolean", b"true", [], "found a boolean"),
    ("string", b'"x"', [], "found a string"),
    ("array", b"[{}]", [], "found an array"),
    ("two objects", plain() + plain(), [], "no valid JSON"),
    ("cut short", plain()[:-1], [], "no valid JSON"),
    ("trailing comma", plain(b'{"a":1,}'), [], "no valid JSON"),
    ("single quotes", b"{'a':1}", [], "no valid JSON"),
    ("comment", plain(b'{"a":1/*x*/}'), [], "no valid JSON"),
    ("leading zero", plain(b'{"a":01}'), [], "no valid JSON"),
    ("2 MiB", plain(b'{"a":"' + b"x" * 2_097_152 + b'"}'), [], "the topic's limit is 200000"),
    ("id of 300", plain(event_id="x" * 300), [], "event_id has 300 characters"),
    ("empty id", plain(event_id=""), [], "event_id is empty"),
    ("id a number", plain(event_id=17), [], "event_id must be a string"),
    ("no type", plain(type=None), [], "type is missing"),
    ("type null", b'{"type":null,"data":{}}', [], "type is missing"),
    ("empty type", plain(type=""), [], "type is empty"),
    ("type of 256", plain(type="x" * 256), [], "type has 256 characters"),
    ("type a list", plain(type=["a"]), [], "type must be a string"),
    ("data null", plain(b"null"), [], "data must be a JSON object, found null"),
    ("data an array", plain(b"[1]"), [], "data must be a JSON object, found an array"),
    ("data a string", plain(b'"{}"'), [], "data must be a JSON object, found a string"),
    ("version a boolean", plain(version=True), [], "version must be an integer"),
    ("version a float", plain(version=1.0), [], "version must be an integer"),
    ("version 2^63", plain(version=2**63), [], "64 bits"),
    ("version an object", plain(version={}), [], "version must be an integer"),
    ("version a numeral", plain(version="7"), [], "RFC 3339"),
    ("version empty", plain(version=""), [], "RFC 3339"),
    ("version without offset", plain(version="2024-05-01T10:00:00"), [], "with an offset"),
    ("version in nanoseconds", plain(version="2024-05-01T10:00:00.123456001Z"), [], "finer than micro"),
    ("version of year 0", plain(version="0000-01-01T00:00:00Z"), [], "years 1 to 9999"),
    ("version of year 20000", plain(version="20000-01-01T00:00:00Z"), [], "RFC 3339"),
    ("version BC", plain(version="2024-01-01T00:00:00Z BC"), [], "RFC 3339"),
    ("version before year 0", plain(version="-0044-03-15T00:00:00Z"), [], "RFC 3339"),
    ("version infinity", plain(version="infinity"), [], "RFC 3339"),
    ("version February 30", plain(version="2024-02-30T00:00:00Z"), [], "no point in time"),
    ("version in a leap second", plain(version="2016-12-31T23:59:60Z"), [], "no point in time"),
    ("version before year 1 in UTC", plain(version="0001-01-01T00:00:00+01:00"), [], "years 1 to 9999"),
    ("version after 9999 in UTC", plain(version="9999-12-31T23:59:59-01:00"), [], "years 1 to 9999"),
    ("version with a space", plain(version="2024-05-01 10:00:00Z"), [], "RFC 3339"),
    ("version, offset without colon", plain(version="2024-05-01T10:00:00+0200"), [], "RFC 3339"),
    ("version a date", plain(version="2024-05-01"), [], "RFC 3339"),
    ("version and a line end", plain(version="2024-05-01T10:00:00Z\n"), [], "RFC 3339"),
    ("version in other digits", plain(version="２024-05-01T10:00:00Z"), [], "RFC 3339"),
    ("time without offset", plain(occurred_at="2024-05-01T10:00:00"), [], "occurred_at must be"),
    ("time a number", plain(occurred_at=1_700_000_000), [], "occurred_at must be"),
    ("time February 30", plain(occurred_at="2024-02-30T00:00:00Z"), [], "occurred_at is no point"),
    ("binary: specversion 0.3", b"{}", cloud(specversion=b"0.3"), "specversion must be 1.0"),
    ("binary: specversion null", b"{}", cloud(specversion=None), "specversion must be 1.0"),
    ("binary: id null", b"{}", cloud(id=None), "ce_id is missing"),
    ("binary: no id", b"{}", [CLOUD[0], *CLOUD[2:]], "ce_id is missing"),
    ("binary: id empty", b"{}", cloud(id=b""), "ce_id is empty"),
    ("binary: id of 300", b"{}", cloud(id=b"x" * 300), "ce_id has 300"),
    ("binary: id with NUL", b"{}", cloud(id=b"a\0"), "NUL"),
    ("binary: id not UTF-8", b"{}", cloud(id=b"\xff"), "the header ce_id is not UTF-8"),
    ("binary: id twice", b"{}", [*CLOUD, ("CE_ID", b"e2")], "twice"),
    ("binary: no source", b"{}", cloud(source=None), "ce_source is missing"),
    ("binary: source of 3,000", b"{}", cloud(source=b"x" * 3_000), "ce_source has 3000"),
    ("binary: no type", b"{}", cloud(type=None), "ce_type is missing"),
    ("binary: version words", b"{}", cloud(version=b"seven"), "ce_version must be"),
    ("binary: version empty", b"{}", cloud(version=b""), "ce_version must be"),
    ("binary: version 2^63", b"{}", cloud(version=b"9223372036854775808"), "ce_version does not fit"),
    ("binary: version of 5,000 digits", b"{}", cloud(version=b"9" * 5_000), "ce_version must be"),
    ("binary: version with a plus", b"{}", cloud(version=b"+7"), "ce_version must be"),
    ("binary: version 7.0", b"{}", cloud(version=b"7.0"), "ce_version must be"),
    ("binary: time without offset", b"{}", cloud(time=b"2024-05-01T10:00:00"), "ce_time must be"),
    ("binary: an array", b"[]", CLOUD, "found an array"),
    ("binary: empty value", b"", CLOUD, "no valid JSON"),
    ("structured: specversion 0.3", body(specversion="0.3"), STRUCTURED, "specversion must be 1.0"),
    ("structured: specversion a number", body(specversion=1.0), STRUCTURED, "specversion must be 1.0"),
    ("structured: id null", body(id=None), STRUCTURED, "id is missing"),
    ("structured: source empty", body(source=""), STRUCTURED, "source is empty"),
    ("structured: type a number", body(type=1), STRUCTURED, "type must be a string"),
    ("structured: version a float", body(version=1.5), STRUCTURED, "version must be"),
    ("structured: data null", body(data=None), STRUCTURED, "data must be a JSON object"),
    ("structured: no data", body()[: body().index(b', "data"')] + b"}", STRUCTURED, "data is missing"),
    ("a batch of events", b"[]", [("content-type", b"application/cloudevents-batch+json")], "an array"),
    ("a batch in an object", b"{}", [("content-type", b"application/cloudevents-batch+json")], "supported"),
    ("an Avro event", b"{}", [("Content-Type", b"Application/CloudEvents+avro")], "not supported"),
    ("tombstone: id empty", None, [("ce_id", b"")], "ce_id is empty"),
    ("tombstone: version words", None, [("ce_version", b"seven")], "ce_version must be"),
    ("tombstone: specversion 0.3", None, [("ce_specversion", b"0.3")], "specversion must be 1.0"),
]


@pytest.mark.parametrize(("value", "headers", "words"), [c[1:] for c in BAD], ids=[c[0] for c in BAD])
def test_a_bad_record_is_no_event_and_says_why(value: bytes | None, headers: Headers, words: str) -> None:
    decoded = read(value, headers)
    assert decoded.event is None
    assert words in str(decoded.error)
    assert len(str(decoded.error)) < 300
    assert (decoded.identity, decoded.data_hash) == (COORDINATES, hash_raw(value))
    assert (decoded.entity_key, decoded.record.value) == ("acc-42", value)


GOOD_DATA: list[tuple[str, bytes, JsonObject]] = [
    ("nothing", b"{}", {}),
    ("a pair of surrogates", rb'{"a":"\ud83d\ude00"}', {"a": "😀"}),
    ("the word for NUL", rb'{"a":"\\u0000"}', {"a": "\\u0000"}),
    ("bigint bounds", b'{"a":[9223372036854775807,-9223372036854775808]}', {"a": [2**63 - 1, -(2**63)]}),
    ("long digits in text", b'{"a":"99999999999999999999"}', {"a": "9" * 20}),
    ("many digits of a float", b'{"a":12345678901234567890.5}', {"a": 12345678901234567890.5}),
    ("a float with no fraction", b'{"a":1.0}', {"a": 1.0}),
    ("many brackets, flat", b'{"a":[' + b"{}," * 99 + b'"[[["]}', {"a": [*({} for _ in range(99)), "[[["]}),
    ("colons", rb'{":":"::","\u003a\u003A":":"}', {":": "::", "::": ":"}),
    ("one key on two levels", b'{"a":{"a":[{"a":1},{"a":1}]}}', {"a": {"a": [{"a": 1}, {"a": 1}]}}),
    ("white space", b' { "a" :\r\n\t1 } ', {"a": 1}),
]


@pytest.mark.parametrize(("raw", "data"), [c[1:] for c in GOOD_DATA], ids=[c[0] for c in GOOD_DATA])
def test_strictness_refuses_no_good_data(raw: bytes, data: JsonObject) -> None:
    decoded = read(plain(raw))
    assert decoded.error is None
    assert decoded.event is not None
    assert repr(decoded.event.data) == repr(data)


def test_depth_64_is_the_last_that_passes() -> None:
    assert read(plain(nested(64))).error is None


def test_a_plain_event_is_read_by_its_field_names() -> None:
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


def test_field_names_can_be_chosen_and_the_whole_object_be_the_data() -> None:
    topic = replace(TOPIC, fields=FieldNames("id", "kind", "rev", "at", "payload"))
    raw = {"id": "e9", "kind": "k", "rev": -3, "at": "2024-05-01T10:00:00z", "data": 1}
    event = read(json.dumps(raw).encode(), topic=topic).event
    assert event is not None
    assert (event.id, event.type, event.version, event.time, event.data) == ("e9", "k", -3, TEN, raw)


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_both_modes_of_cloudevents_are_the_same_event(mode: str) -> None:
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


def test_without_event_id_the_place_is_the_identity() -> None:
    assert read(plain(event_id=None)).identity == COORDINATES
    assert read(b'{"event_id":null,"type":"t"}').identity == COORDINATES


def test_an_unreadable_key_has_no_entity_but_still_its_identity() -> None:
    first, second, none = read(plain(), key=b"\xff"), read(plain(), key=b"\xfe"), read(plain(), key=None)
    assert first.event is not None
    assert first.entity_key is first.event.key is none.entity_key is None
    assert len({first.identity, second.identity, none.identity, read(plain(), key=b"").identity}) == 4


# (what is wrong, value, headers, (id, type, source) still read)
READABLE: list[tuple[str, bytes | None, Headers, tuple[str | None, str | None, str | None]]] = [
    ("bad data", plain(rb'{"a":"\u0000"}'), [], ("e1", "balance.set", None)),
    ("bad id", plain(event_id="x" * 300), [], (None, "balance.set", None)),
    ("no type", plain(type=None), [], ("e1", None, None)),
    ("no JSON", b"{", [], (None, None, None)),
    ("an array", b"[]", [], (None, None, None)),
    ("oversized", plain(b'"' + b"x" * 200_000 + b'"'), [], (None, None, None)),
    ("binary, no JSON", b"{", CLOUD, ("e1", "balance.set", "/shop")),
    ("binary, bad id", b"{}", cloud(id=b"\xff"), (None, "balance.set", "/shop")),
    ("binary, id twice", b"{}", [*CLOUD, ("ce_id", b"e2")], (None, None, None)),
    ("structured", body(data=None), STRUCTURED, ("e1", "balance.set", "/shop")),
    ("tombstone", None, cloud(version=b"x"), ("e1", "account.deleted", "/shop")),
]


@pytest.mark.parametrize(
    ("value", "headers", "told"), [c[1:] for c in READABLE], ids=[c[0] for c in READABLE]
)
def test_what_can_be_read_of_a_bad_record_is_told(
    value: bytes, headers: Headers, told: tuple[str, ...]
) -> None:
    decoded = read(value, headers)
    assert decoded.error is not None
    assert (decoded.event_id, decoded.type, decoded.source) == told


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
# Bits of JSON in any order: nearly valid, which random bytes never are.
_BITS = st.lists(st.sampled_from([*'{}[],:"ae01.-\\ ', '"a":', '"type":"t"', r"\u003a", r"\u0000", "null"]))


@given(
    st.none() | st.binary() | _BITS.map("".join).map(str.encode), _HEADERS, st.none() | st.binary(max_size=3)
)
def test_decoding_never_raises(value: bytes | None, headers: Headers, key: bytes | None) -> None:
    decoded = read(value, headers, key)
    assert (decoded.event is None) != (decoded.error is None)
    assert decoded == read(value, headers, key) or decoded.error is not None


@given(_OBJECTS)
def test_an_object_comes_back_as_it_was(data: JsonObject) -> None:
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
def test_counting_and_looking_agree_on_repeated_keys(pairs: list[tuple[str, JsonObject]]) -> None:
    members = [f'"{key}":{json.dumps(value)}' for key, value in pairs]
    raw = f"{{{','.join(members)}}}".encode()
    assert _refuses(parse_object, raw) == _refuses(check_keys_exactly, raw)


def _refuses(check: Any, raw: bytes) -> bool:
    try:
        check(raw)
    except DecodeError:
        return True
    return False


def test_a_mutant_that_skips_the_key_check_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.strict_json._lost_a_key", lambda raw, value: False)
    with pytest.raises(AssertionError):
        test_a_bad_record_is_no_event_and_says_why(plain(b'{"a":1,"a":1}'), [], "repeats the key 'a'")
