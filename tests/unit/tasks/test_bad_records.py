"""Records that are not valid events: the error, and the fields that decoding can still read."""

import pytest

from sluice.tasks.events.identity import hash_raw
from tests.unit.tasks.records import CLOUD, COORDINATES, STRUCTURED, Headers, body, cloud, nested, plain, read

# (the defect, value, headers, a part of the error message)
BAD: list[tuple[str, bytes | None, Headers, str]] = [
    ("NUL byte in a string", plain(b'{"a":"x\0y"}'), [], "not valid JSON"),
    ("NUL byte after the object", plain() + b"\0", [], "not valid JSON"),
    ("escaped NUL", plain(rb'{"a":"x\u0000y"}'), [], "NUL"),
    ("escaped NUL in a key", plain(rb'{"a":[{"\u0000":1}]}'), [], "NUL"),
    ("escaped NUL in the id", plain(event_id="a\0"), [], "NUL"),
    ("lone surrogate", plain(rb'{"a":"\ud800"}'), [], "not valid JSON"),
    ("lone surrogate before text", plain(rb'{"a":"\ud83dx"}'), [], "not valid JSON"),
    ("lone low surrogate", plain(rb'{"a":"\ude00"}'), [], "not valid JSON"),
    ("lone surrogate in a key", plain(rb'{"\ud800":1}'), [], "not valid JSON"),
    ("surrogate as UTF-8", plain(b'{"a":"\xed\xa0\x80"}'), [], "not UTF-8"),
    ("NaN", plain(b'{"a":NaN}'), [], "not valid JSON"),
    ("Infinity", plain(b'{"a":Infinity}'), [], "not valid JSON"),
    ("-Infinity", plain(b'{"a":-Infinity}'), [], "not valid JSON"),
    ("float overflow", plain(b'{"a":1e400}'), [], "not valid JSON"),
    ("5,000 digits", plain(b'{"a":' + b"9" * 5_000 + b"}"), [], "not valid JSON"),
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
    ("repeated key in a nested object", plain(b'{"a":[{"b":1,"c":":","b":2}]}'), [], "repeats the key 'b'"),
    ("repeated key, escaped", plain(rb'{"a":1,"\u0061":2}'), [], "repeats the key 'a'"),
    ("repeated key, escaped colon", plain(rb'{":":1,"\u003a":"\u003A"}'), [], "repeats the key ':'"),
    (
        "repeated key and an escaped colon in a value",
        plain(rb'{"a":1,"a":"\u003a"}'),
        [],
        "repeats the key 'a'",
    ),
    ("repeated key around 900 levels", plain(b'{"a":' + b"[" * 900 + b"]" * 900 + b',"a":1}'), [], ""),
    ("repeated data", plain()[:-1] + b',"data":{}}', [], "repeats the key 'data'"),
    ("invalid UTF-8", plain(b'{"a":"\xff"}'), [], "not UTF-8"),
    ("overlong UTF-8", plain(b'{"a":"\xc0\x80"}'), [], "not UTF-8"),
    ("byte order mark", b"\xef\xbb\xbf" + plain(), [], "not valid JSON"),
    ("UTF-16", plain().decode().encode("utf-16"), [], "not valid JSON"),
    ("UTF-32", plain().decode().encode("utf-32-le"), [], "not valid JSON"),
    ("empty value", b"", [], "not valid JSON"),
    ("null", b"null", [], "found null"),
    ("scalar", b"17", [], "found a number"),
    ("boolean", b"true", [], "found a boolean"),
    ("string", b'"x"', [], "found a string"),
    ("array", b"[{}]", [], "found an array"),
    ("two objects", plain() + plain(), [], "not valid JSON"),
    ("truncated", plain()[:-1], [], "not valid JSON"),
    ("trailing comma", plain(b'{"a":1,}'), [], "not valid JSON"),
    ("single quotes", b"{'a':1}", [], "not valid JSON"),
    ("comment", plain(b'{"a":1/*x*/}'), [], "not valid JSON"),
    ("leading zero", plain(b'{"a":01}'), [], "not valid JSON"),
    ("2 MiB", plain(b'{"a":"' + b"x" * 2_097_152 + b'"}'), [], "the topic's limit is 200000"),
    ("id of 300 characters", plain(event_id="x" * 300), [], "event_id has 300 characters"),
    ("id is a number", plain(event_id=17), [], "event_id must be a string"),
    ("no type", plain(type=None), [], "type is missing"),
    ("type is null", b'{"type":null,"data":{}}', [], "type is missing"),
    ("empty type", plain(type=""), [], "type is empty"),
    ("type of 256 characters", plain(type="x" * 256), [], "type has 256 characters"),
    ("type is a list", plain(type=["a"]), [], "type must be a string"),
    ("data is null", plain(b"null"), [], "data must be a JSON object, found null"),
    ("data is an array", plain(b"[1]"), [], "data must be a JSON object, found an array"),
    ("data is a string", plain(b'"{}"'), [], "data must be a JSON object, found a string"),
    ("version is a boolean", plain(version=True), [], "version must be an integer"),
    ("version is a float", plain(version=1.0), [], "version must be an integer"),
    ("version 2^63", plain(version=2**63), [], "64 bits"),
    ("version is an object", plain(version={}), [], "version must be an integer"),
    (
        "version is a numeric string",
        plain(version="7"),
        [],
        "version must be a number: write the integer without quotes",
    ),
    (
        "version is a word",
        plain(version="two"),
        [],
        "version must be an integer or an RFC 3339 timestamp with an offset, as in",
    ),
    ("version without offset", plain(version="2024-05-01T10:00:00"), [], "with an offset"),
    ("version in nanoseconds", plain(version="2024-05-01T10:00:00.123456001Z"), [], "finer than micro"),
    ("version of year 0", plain(version="0000-01-01T00:00:00Z"), [], "years 1 to 9999"),
    ("version of year 20000", plain(version="20000-01-01T00:00:00Z"), [], "RFC 3339"),
    ("version BC", plain(version="2024-01-01T00:00:00Z BC"), [], "RFC 3339"),
    ("version before year 0", plain(version="-0044-03-15T00:00:00Z"), [], "RFC 3339"),
    ("version is infinity", plain(version="infinity"), [], "RFC 3339"),
    ("version is February 30", plain(version="2024-02-30T00:00:00Z"), [], "not a time in the"),
    ("version in a leap second", plain(version="2016-12-31T23:59:60Z"), [], "not a time in the"),
    ("version before year 1 in UTC", plain(version="0001-01-01T00:00:00+01:00"), [], "years 1 to 9999"),
    ("version after 9999 in UTC", plain(version="9999-12-31T23:59:59-01:00"), [], "years 1 to 9999"),
    ("version with a space", plain(version="2024-05-01 10:00:00Z"), [], "RFC 3339"),
    ("version with an offset without colon", plain(version="2024-05-01T10:00:00+0200"), [], "RFC 3339"),
    ("version is a date", plain(version="2024-05-01"), [], "RFC 3339"),
    ("version with a line end", plain(version="2024-05-01T10:00:00Z\n"), [], "RFC 3339"),
    ("version with full-width digits", plain(version="２024-05-01T10:00:00Z"), [], "RFC 3339"),
    ("time without offset", plain(occurred_at="2024-05-01T10:00:00"), [], "occurred_at must be"),
    ("time is a number", plain(occurred_at=1_700_000_000), [], "occurred_at must be"),
    ("time is February 30", plain(occurred_at="2024-02-30T00:00:00Z"), [], "occurred_at is not a time"),
    ("binary: specversion 0.3", b"{}", cloud(specversion=b"0.3"), "specversion must be 1.0"),
    ("binary: specversion is null", b"{}", cloud(specversion=None), "specversion must be 1.0"),
    ("binary: id of 300 characters", b"{}", cloud(id=b"x" * 300), "ce_id has 300"),
    ("binary: id with NUL", b"{}", cloud(id=b"a\0"), "NUL"),
    ("binary: id is not UTF-8", b"{}", cloud(id=b"\xff"), "the header ce_id is not UTF-8"),
    ("binary: id twice", b"{}", [*CLOUD, ("CE_ID", b"e2")], "twice"),
    ("binary: no source", b"{}", cloud(source=None), "ce_source is missing"),
    ("binary: source of 3,000 characters", b"{}", cloud(source=b"x" * 3_000), "ce_source has 3000"),
    ("binary: no type", b"{}", cloud(type=None), "ce_type is missing"),
    ("binary: version is a word", b"{}", cloud(version=b"seven"), "ce_version must be"),
    ("binary: version is a word", b"{}", cloud(version=b""), "ce_version must be"),
    ("binary: version 2^63", b"{}", cloud(version=b"9223372036854775808"), "ce_version does not fit"),
    ("binary: version of 5,000 digits", b"{}", cloud(version=b"9" * 5_000), "ce_version must be"),
    ("binary: version with a plus", b"{}", cloud(version=b"+7"), "ce_version must be"),
    ("binary: version 7.0", b"{}", cloud(version=b"7.0"), "ce_version must be"),
    ("binary: time without offset", b"{}", cloud(time=b"2024-05-01T10:00:00"), "ce_time must be"),
    ("binary: an array", b"[]", CLOUD, "found an array"),
    ("binary: empty value", b"", CLOUD, "not valid JSON"),
    ("structured: specversion 0.3", body(specversion="0.3"), STRUCTURED, "specversion must be 1.0"),
    ("structured: specversion is a number", body(specversion=1.0), STRUCTURED, "specversion must be 1.0"),
    ("structured: source is empty", body(source=""), STRUCTURED, "source is empty"),
    ("structured: type is a number", body(type=1), STRUCTURED, "type must be a string"),
    ("structured: version is a float", body(version=1.5), STRUCTURED, "version must be"),
    ("structured: data is null", body(data=None), STRUCTURED, "data must be a JSON object"),
    ("structured: no data", body()[: body().index(b', "data"')] + b"}", STRUCTURED, "data is missing"),
    ("a batch of events", b"[]", [("content-type", b"application/cloudevents-batch+json")], "an array"),
    (
        "a batch that is an object",
        b"{}",
        [("content-type", b"application/cloudevents-batch+json")],
        "supported",
    ),
    ("an Avro event", b"{}", [("Content-Type", b"Application/CloudEvents+avro")], "not supported"),
    ("tombstone: version is a word", None, [("ce_version", b"seven")], "ce_version must be"),
    ("tombstone: specversion 0.3", None, [("ce_specversion", b"0.3")], "specversion must be 1.0"),
]


@pytest.mark.parametrize(("value", "headers", "message"), [c[1:] for c in BAD], ids=[c[0] for c in BAD])
def test_an_invalid_record_has_no_event_but_an_error(
    value: bytes | None, headers: Headers, message: str
) -> None:
    decoded = read(value, headers)
    assert decoded.event is None
    assert message in str(decoded.error)
    assert len(str(decoded.error)) < 300
    assert (decoded.identity, decoded.data_hash) == (COORDINATES, hash_raw(value))
    assert (decoded.entity_key, decoded.record.value) == ("acc-42", value)


# (the defect, value, headers, the (id, type, source) that decoding still reads)
READABLE: list[tuple[str, bytes | None, Headers, tuple[str | None, str | None, str | None]]] = [
    ("bad data", plain(rb'{"a":"\u0000"}'), [], ("e1", "balance.set", None)),
    ("bad id", plain(event_id="x" * 300), [], (None, "balance.set", None)),
    ("no type", plain(type=None), [], ("e1", None, None)),
    ("not JSON", b"{", [], (None, None, None)),
    ("an array", b"[]", [], (None, None, None)),
    ("oversized", plain(b'"' + b"x" * 200_000 + b'"'), [], (None, None, None)),
    ("binary, not JSON", b"{", CLOUD, ("e1", "balance.set", "/shop")),
    ("binary, bad id", b"{}", cloud(id=b"\xff"), (None, "balance.set", "/shop")),
    ("binary, id twice", b"{}", [*CLOUD, ("ce_id", b"e2")], (None, None, None)),
    ("structured", body(data=None), STRUCTURED, ("e1", "balance.set", "/shop")),
    ("tombstone", None, cloud(version=b"x"), ("e1", "account.deleted", "/shop")),
]


@pytest.mark.parametrize(
    ("value", "headers", "readable"), [c[1:] for c in READABLE], ids=[c[0] for c in READABLE]
)
def test_the_readable_fields_of_an_invalid_record_are_kept(
    value: bytes, headers: Headers, readable: tuple[str, ...]
) -> None:
    decoded = read(value, headers)
    assert decoded.error is not None
    assert (decoded.event_id, decoded.type, decoded.source) == readable


def test_a_mutant_that_skips_the_key_check_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluice.tasks.events.strict_json._may_have_lost_a_key", lambda *_: False)
    with pytest.raises(AssertionError):
        test_an_invalid_record_has_no_event_but_an_error(plain(b'{"a":1,"a":1}'), [], "repeats the key 'a'")
