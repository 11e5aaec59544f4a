"""A pub/sub message is passed to kombu and Celery only if they can read it without an exception."""

import base64
import json
from types import ModuleType
from typing import Any

import pytest
from celery import Celery
from celery.events.receiver import EventReceiver
from hypothesis import given
from hypothesis import strategies as st
from kombu.transport.virtual.base import Base64, Message

from sluice.runtime import fanout
from sluice.runtime.fanout import EVENT_EXCHANGE, MAX_CONTROL_BYTES, MAX_EVENTS_BYTES, Dropped, read_fanout
from tests.mutants import mutated

CONTROL = "celery.pidbox"
COMMAND: dict[str, Any] = {"method": "ping", "arguments": {}, "destination": None}
EVENT: dict[str, Any] = {
    "type": "worker-heartbeat",
    "hostname": "a@b",
    "timestamp": 1.5,
    "utcoffset": -2,
    "clock": 7,
    "freq": 2.0,
}
TASK_EVENT = {**EVENT, "type": "task-received", "uuid": "1-2"}


def envelope(body: Any = COMMAND, **changes: Any) -> dict[str, Any]:
    """Returns an envelope as kombu writes it. A change to None removes the field."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    made = {
        "body": base64.b64encode(raw).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"clock": 1, "expires": 0},
        "properties": {
            "delivery_mode": 2,
            "delivery_info": {"exchange": CONTROL, "routing_key": ""},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "a-b",
        },
    }
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


def properties(**changes: Any) -> dict[str, Any]:
    made = {**envelope()["properties"], **changes}
    return {name: value for name, value in made.items() if value is not None}


def packed(*args: Any, **changes: Any) -> bytes:
    return json.dumps(envelope(*args, **changes)).encode()


DEEP = b"[" * 100_000
DROPPED: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"\x80\x04", "not JSON"),
    "not utf-8": (b'"\xff"', "not JSON"),
    "deeply nested": (DEEP[:50_000], "not JSON"),
    "too long": (packed("x" * MAX_CONTROL_BYTES), "too long"),
    "a number": (b"5", "not a message"),
    "null": (b"null", "not a message"),
    "a list": (b"[{}]", "not a message"),
    "empty": (b"{}", "not a message"),
    "no properties": (packed(properties=None), "not a message"),
    "properties are a list": (packed(properties=[]), "not a message"),
    "no delivery tag": (packed(properties=properties(delivery_tag=None)), "not a message"),
    "delivery tag is a list": (packed(properties=properties(delivery_tag=[])), "not a message"),
    "delivery info is text": (packed(properties=properties(delivery_info="x")), "not a message"),
    "unknown encoding of the body": (packed(properties=properties(body_encoding="rot13")), "not a message"),
    "unhashable encoding of the body": (packed(properties=properties(body_encoding=[])), "not a message"),
    "plain body": (packed(properties=properties(body_encoding=None)), "not a message"),
    "headers are a list": (packed(headers=["compression"]), "not a message"),
    "compressed": (packed(headers={"compression": "application/x-gzip"}), "compressed"),
    "compressed by null": (packed(headers={"compression": None}), "compressed"),
    "no body": (packed(body=None), "body not JSON"),
    "body is a number": (json.dumps({**envelope(), "body": 5}).encode(), "not a message"),
    "body is not base64": (json.dumps({**envelope(), "body": "*"}).encode(), "body not JSON"),
    "body is truncated": (json.dumps({**envelope(), "body": "abcde"}).encode(), "body not JSON"),
    "body is empty": (packed(b""), "body not JSON"),
    "body is not JSON": (packed(b"{"), "body not JSON"),
    "body is deeply nested": (packed(DEEP[:40_000]), "body not JSON"),
    "body with an invalid typed value": (
        packed({"__type__": "uuid", "__value__": 5}),
        "body not JSON",
    ),
    "pickle": (packed(**{"content-type": "application/x-python-serialize"}), "not a message"),
    "binary": (packed(**{"content-encoding": "binary"}), "not a message"),
    "content type is a list": (packed(**{"content-type": []}), "not a message"),
}
DROPPED["no body"] = (
    json.dumps({k: v for k, v in envelope().items() if k != "body"}).encode(),
    "not a message",
)

NO_EVENTS: dict[str, Any] = {
    "a number": 5,
    "text": "worker-online",
    "list of numbers": [1],
    "list with an empty object": [EVENT, {}],
    "no type": {**EVENT, "type": None},
    "type without a group": {**EVENT, "type": "worker"},
    "no host": {**EVENT, "hostname": {}},
    "no timestamp": {**EVENT, "timestamp": "now"},
    "infinite timestamp": {**EVENT, "timestamp": float("inf")},
    "timestamp is NaN": {**EVENT, "timestamp": float("nan")},
    "huge clock": {**EVENT, "clock": 2**80},
    "clock is text": {**EVENT, "clock": "7"},
    "clock is true": {**EVENT, "clock": True},
    "fraction as clock": {**EVENT, "clock": 1.5},
    "offset is a list": {**EVENT, "utcoffset": []},
    "freq is text": {**EVENT, "freq": "often"},
    "task without id": {**EVENT, "type": "task-received"},
    "task with a list as id": {**EVENT, "type": "task-received", "uuid": []},
}


@pytest.mark.parametrize("case", DROPPED)
def test_an_invalid_message_is_dropped_with_its_reason(case: str) -> None:
    data, reason = DROPPED[case]
    assert read_fanout(data, CONTROL) == Dropped(reason)


@pytest.mark.parametrize("case", NO_EVENTS)
def test_an_invalid_event_is_dropped(case: str) -> None:
    assert read_fanout(packed(NO_EVENTS[case]), EVENT_EXCHANGE) == Dropped("not an event")


def test_messages_of_celery_are_delivered() -> None:
    assert read_fanout(packed(), CONTROL) == envelope()
    for body in (EVENT, TASK_EVENT, [TASK_EVENT, TASK_EVENT], []):
        assert read_fanout(packed(body), EVENT_EXCHANGE) == envelope(body)
    many = [{**TASK_EVENT, "args": "x" * 4_000}] * 24
    assert MAX_CONTROL_BYTES < len(packed(many)) < MAX_EVENTS_BYTES
    assert read_fanout(packed(many), EVENT_EXCHANGE) == envelope(many)


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = [*envelope(), *envelope()["properties"], *TASK_EVENT]


class Codecs:
    """The part of a channel that a message of kombu uses."""

    no_ack_consumers: Any = None

    def decode_body(self, body: Any, encoding: Any) -> Any:
        return {"base64": Base64()}[encoding].decode(body) if encoding else body  # type: ignore[no-untyped-call]


@given(st.sampled_from(NAMES), JSON, st.sampled_from([CONTROL, EVENT_EXCHANGE]))
def test_kombu_and_celery_can_read_every_delivered_message(name: str, value: Any, exchange: str) -> None:
    body = {**TASK_EVENT, name: value} if name in TASK_EVENT else TASK_EVENT
    made = envelope(body)
    if name in made:
        made[name] = value
    elif name in made["properties"]:
        made["properties"][name] = value
    read = read_fanout(json.dumps(made).encode(), exchange)
    if isinstance(read, Dropped):
        return
    message: Any = Message(read, channel=Codecs())  # type: ignore[no-untyped-call]
    message.accept = {"application/json"}
    assert not message.errors
    decoded = message.decode()
    if exchange == EVENT_EXCHANGE:
        receiver = EventReceiver.__new__(EventReceiver)
        app = Celery("test")
        receiver.adjust_clock, receiver.forward_clock = app.clock.adjust, app.clock.forward
        for event in decoded if isinstance(decoded, list) else [decoded]:
            receiver.event_from_message(event)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_random_bytes_are_dropped_without_an_exception(data: bytes) -> None:
    assert isinstance(read_fanout(data, CONTROL), Dropped)


MUTANTS = {
    "no bound": ("len(data) > (", "False and len(data) > (", "too long"),
    "deep": ("(ValueError, RecursionError)", "ValueError", "deeply nested"),
    "any shape": ("if not _is_envelope(envelope):", "if not envelope:", "a list"),
    "any tag": ('and isinstance(properties.get("delivery_tag"), str)', "", "no delivery tag"),
    "any encoding": ('and properties.get("body_encoding") == "base64"', "", "plain body"),
    "any type": ('and envelope.get("content-type") == "application/json"', "", "pickle"),
    "any coding": ('and envelope.get("content-encoding") == "utf-8"', "", "binary"),
    "any info": ('and isinstance(properties.get("delivery_info"), dict | None)', "", "delivery info is text"),
    "compressed": ('if "compression" in', 'if "compressed" in', "compressed"),
    "body": ("validate=True", "validate=False", "body is not base64"),
    "few errors": ("except Exception:  #", "except ValueError:  #", "body is deeply nested"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_found(mutant: str) -> None:
    old, new, case = MUTANTS[mutant]
    copy: ModuleType = mutated(fanout, old, new)
    data, reason = DROPPED[case]
    if mutant == "body":
        data, reason = json.dumps({**envelope(), "body": "*" + envelope()["body"]}).encode(), "body not JSON"
    try:
        read = copy.read_fanout(data, CONTROL)
    except Exception:
        return
    assert read != (reason,)


EVENT_MUTANTS = {
    'and isinstance(event.get("hostname"), str)': "no host",
    'and _is_number(event.get("timestamp"))': "no timestamp",
    'and _is_number(event.get("utcoffset", 0))': "offset is a list",
    'and _is_number(event.get("freq", 0))': "freq is text",
    'and isinstance(event.get("clock", 0), int)': "fraction as clock",
    'and _is_number(event.get("clock", 0))': "huge clock",
    "and abs(value) < MAX_NUMBER": "timestamp is NaN",
    "and not isinstance(value, bool)": "clock is true",
}


@pytest.mark.parametrize("rule", EVENT_MUTANTS)
def test_without_a_rule_the_invalid_event_would_be_delivered(rule: str) -> None:
    copy = mutated(fanout, rule, "")
    assert isinstance(copy.read_fanout(packed(NO_EVENTS[EVENT_MUTANTS[rule]]), EVENT_EXCHANGE), dict)
