"""`sluice send` compares events with the handlers, and makes records from command line options."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice import Effect, Entity, Event, FieldNames, Topic, handles
from sluice.admin.event_check import describe_type, find_flaw
from sluice.admin.event_lines import LineRefused, Outgoing, SendRefused, parse_lines
from sluice.admin.typed_event import TypedEvent, make_record
from sluice.kafka_io.record_types import Record
from sluice.tasks.events.decode import decode
from sluice.tasks.fold.registry import Registry, collect_modules

FIELDS = FieldNames(event_id="id", type="kind", version="v", occurred_at="at", data="payload")


def never() -> Iterator[Effect]:
    raise AssertionError("no handler runs when an event is sent")


class Placed(msgspec.Struct, frozen=True, rename="camel"):
    total_cents: int
    note: str | None = None


@handles("order.placed", topic="orders")
def place(event: Event[Placed]) -> Iterator[Effect]:
    yield from never()


@handles("user.changed", topic="users")
def change(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield from never()


@pytest.fixture(scope="module")
def registry() -> Registry:
    module = ModuleType("sending")
    orders = Topic("orders", entity=Entity("order"), ignores=("order.viewed",))
    users = Topic("users", entity=Entity("user"), fields=FIELDS, dedup="position")
    vars(module).update(topics=(orders, users), place=place, change=change)
    return collect_modules([module])


def order(**fields: object) -> Outgoing:
    return Outgoing("orders", b"o-1", json.dumps(fields).encode(), [])


GOOD = {"event_id": "1", "type": "order.placed", "data": {"totalCents": 5}}


@pytest.mark.parametrize(
    "record",
    [
        order(**GOOD),
        order(type="order.viewed"),
        Outgoing("users", b"u", b'{"kind": "user.changed", "payload": {}}', []),
        Outgoing("of-others", b"u", b"no event at all", []),
    ],
)
def test_a_record_that_the_handlers_accept_has_no_flaw(registry: Registry, record: Outgoing) -> None:
    assert find_flaw(registry, record) is None


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        (
            Outgoing("orders", b"o-1", b"7", []),
            ["expected a JSON object, found a number", '{"event_id": …, "type": …', "order.placed"],
        ),
        (order(event_id="1"), ["type is missing", "types of topic orders: order.placed, order.viewed"]),
        (order(**GOOD | {"version": "x"}), ["version must be", "types of topic orders"]),
        (order(**GOOD | {"type": "order.plced"}), ["'order.plced'", "did you mean 'order.placed'?"]),
        (order(**GOOD | {"type": "user.changed"}), ["no handler accepts events of type 'user.changed'"]),
        (order(**GOOD | {"event_id": None}), ["the event has no id", "'event_id'", 'dedup="position"']),
        (
            order(**GOOD | {"data": {"totalCents": "5"}}),
            [
                "Expected `int`, got `str` - at `$.totalCents`",
                "test_event_check.place expects Placed",
                "{totalCents: int, note: str | None (optional)}",
            ],
        ),
        (
            Outgoing("users", b"u", b'{"kind": "user.chnged"}', []),
            ["did you mean 'user.changed'?", "types of topic users: user.changed"],
        ),
        (Outgoing("users", b"u", None, []), ["no handler accepts events of type 'user.deleted'"]),
    ],
)
def test_the_message_about_a_flaw_names_what_the_topic_expects(
    registry: Registry, record: Outgoing, parts: list[str]
) -> None:
    flaw = find_flaw(registry, record)
    assert flaw is not None
    for part in parts:
        assert part in flaw


def test_the_error_about_a_flaw_names_the_line_and_the_option_no_check() -> None:
    lines = [b'{"key": "u", "value": 1, "topic": "t"}'] * 2
    flaws = iter([None, "why"])
    parsed = parse_lines(lines, topic=None, known_topics={"t"}, find_flaw=lambda _: next(flaws))
    assert next(parsed).topic == "t"
    with pytest.raises(LineRefused, match="line 2: why; to send the event anyway, pass --no-check"):
        next(parsed)


@pytest.mark.parametrize(
    ("data_type", "text"),
    [
        (Any, "an object"),
        (dict[str, Any], "an object"),
        (Placed, "Placed {totalCents: int, note: str | None (optional)}"),
    ],
)
def test_a_type_is_described_by_the_names_of_its_json_fields(data_type: Any, text: str) -> None:
    assert describe_type(data_type) == text


@given(
    data=st.dictionaries(st.text(max_size=5), st.integers(-(2**63), 2**63 - 1) | st.text() | st.none()),
    version=st.none() | st.integers(-(2**63), 2**63 - 1),
    key=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
)
@pytest.mark.parametrize("fields", [FieldNames(), FIELDS])
def test_an_event_from_options_is_decoded_unchanged(
    fields: FieldNames, data: dict[str, Any], version: int | None, key: str
) -> None:
    text = json.dumps(data)
    if "\\u0000" in text:
        return
    topic = Topic("orders", entity=Entity("order"), fields=fields)
    shown_version = None if version is None else str(version)
    typed = TypedEvent(key, "order.placed", text, "e-1", shown_version, "2026-01-31T10:00:00Z", ["a=b=c"])
    sent = make_record("orders", typed, fields)
    event = decode(topic, "", 0, Record(0, 0, sent.key, sent.value, list(sent.headers))).event
    assert event is not None
    assert (event.key, event.type, event.id, event.version) == (key, "order.placed", "e-1", version)
    assert (event.data, event.headers) == (data, (("a", b"b=c"),))
    assert event.time == datetime(2026, 1, 31, 10, tzinfo=UTC)


def test_numbers_in_data_are_sent_exactly_as_written() -> None:
    sent = make_record("orders", TypedEvent("o", "order.placed", '{"amount": 1.10}', "1"), FieldNames())
    assert sent.value is not None
    assert b'{"amount": 1.10}' in sent.value


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"type": None}, "--type is missing"),
        ({"data": "[1]"}, "--data '[1]': expected a JSON object, found an array"),
        ({"data": "{total: 1}"}, "write a JSON object"),
        ({"version": "one"}, "--version must be an integer or an RFC 3339 timestamp"),
        ({"time": "today"}, "--time must be an RFC 3339 timestamp"),
        ({"headers": ["a"]}, "--header 'a': write NAME=VALUE"),
    ],
)
def test_an_invalid_option_is_refused_by_name(changed: dict[str, Any], message: str) -> None:
    typed = TypedEvent("o-1", "order.placed", "{}", "1")._replace(**changed)
    with pytest.raises(SendRefused) as refused:
        make_record("orders", typed, FieldNames())
    assert message in str(refused.value)


def test_a_tombstone_is_a_null_value() -> None:
    typed = TypedEvent("u-1", None, "{}", "1", is_tombstone=True)
    assert make_record("users", typed, FieldNames()) == Outgoing("users", b"u-1", None, [])
