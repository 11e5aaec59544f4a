"""`sluice send` makes a record from a line, or refuses the line with its number and a reason."""

from collections.abc import Iterable, Iterator

import pytest

from sluice.admin.event_lines import LineRefused, Outgoing, parse_lines

KNOWN = frozenset({"users", "orders"})


def parse(*lines: bytes, topic: str | None = "users") -> list[Outgoing]:
    return list(parse_lines(lines, topic=topic, known_topics=KNOWN))


@pytest.mark.parametrize(
    ("line", "record"),
    [
        (b'{"key": "u", "value": {"a": 1}}\n', Outgoing("users", b"u", b'{"a": 1}', [])),
        (b'{"key": null, "value": [1]}', Outgoing("users", None, b"[1]", [])),
        (b'{"key": "", "value": {}}', Outgoing("users", b"", b"{}", [])),
        (b'{"key": "u", "value": null }', Outgoing("users", b"u", None, [])),
        (b'{"key": "u", "value": "null"}', Outgoing("users", b"u", b'"null"', [])),
        (b'{"key": "u", "value": 1, "topic": "orders"}', Outgoing("orders", b"u", b"1", [])),
        ('{"key": "ü", "value": "é"}'.encode(), Outgoing("users", "ü".encode(), '"é"'.encode(), [])),
        (
            b'{"key": "u", "value": 1, "headers": {"ce_id": "7", "ce_type": "x"}}',
            Outgoing("users", b"u", b"1", [("ce_id", b"7"), ("ce_type", b"x")]),
        ),
        # The value stays unchanged byte for byte: decoding could repair a value that a worker must refuse.
        (b'{"key": "u", "value": {"a":1.10, "a":2}}', Outgoing("users", b"u", b'{"a":1.10, "a":2}', [])),
    ],
)
def test_a_line_becomes_a_record(line: bytes, record: Outgoing) -> None:
    assert parse(line) == [record]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"nonsense", "malformed"),
        (b"[1]", "Expected `object`"),
        (b'{"value": 1}', "missing required field `key`"),
        (b'{"key": "u"}', "missing required field `value`"),
        (b'{"key": 7, "value": 1}', "Expected `str | null`"),
        (b'{"key": "u", "value": 1, "haeders": {}}', "unknown field `haeders`"),
        (b'{"key": "u", "value": 1, "headers": {"a": 1}}', "Expected `str`"),
        (b'{"key": "u", "value": NaN}', "malformed"),
        (b'{"key": "u", "value": 1} {}', "trailing"),
        (b'{"key": "\xff", "value": 1}', "utf-8"),
        (b'{"key": null, "value": null}', "a tombstone needs a `key`"),
        (b'{"key": "u", "value": 1, "topic": "nope"}', "no topic nope; it has: orders, users"),
    ],
)
def test_a_bad_line_is_refused_with_its_number_and_reason(line: bytes, reason: str) -> None:
    with pytest.raises(LineRefused, match=r"^line 3: ") as caught:
        parse(b'{"key": "u", "value": 1}', b"  \n", line)
    assert reason in str(caught.value)
    assert "no record was sent" in str(caught.value)


def test_a_line_that_contains_only_an_event_is_refused_with_the_form_of_a_line() -> None:
    with pytest.raises(
        LineRefused, match=r"unknown field `event_id`.*; a line has topic, key, value and headers"
    ):
        parse(b'{"event_id": "e-1", "event_type": "parcel.scanned", "data": {}}')


def test_a_line_without_a_topic_requires_the_topic_option() -> None:
    with pytest.raises(LineRefused, match="--topic"):
        parse(b'{"key": "u", "value": 1}', topic=None)


def test_a_refusal_reports_how_many_earlier_lines_were_acknowledged() -> None:
    refused = str(LineRefused(9, "why", acknowledged=8))
    assert refused == "line 9: why; Kafka has acknowledged 8 records of earlier lines"


def test_a_line_is_parsed_before_the_next_line_is_read() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b'{"key": "u", "value": 1}'

    lines: Iterable[bytes] = endless()
    first = next(parse_lines(lines, topic="users", known_topics=KNOWN))
    assert first.key == b"u"
