"""Records as producers write them, and a function that decodes such a record."""

import json
from datetime import UTC, datetime
from typing import Any

from sluice.kafka_io.record_types import Record
from sluice.tasks.api import Entity, Topic
from sluice.tasks.events.decode import Decoded, decode
from sluice.tasks.events.identity import record_identity

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
    """Returns a valid event with this `data`; omits fields that are None."""
    envelope = {"event_id": "e1", "type": "balance.set", "version": 7} | fields
    named = {name: value for name, value in envelope.items() if value is not None}
    return json.dumps(named).encode()[:-1] + b', "data": ' + data + b"}"


def cloud(**changes: bytes | None) -> Headers:
    """Returns valid headers with these changes (`id=b"…"`)."""
    return list((dict(CLOUD) | {f"ce_{name}": value for name, value in changes.items()}).items())


def body(**changes: Any) -> bytes:
    return json.dumps(CLOUD_BODY | changes).encode()


def nested(depth: int) -> bytes:
    """Returns data that makes the whole event `depth` levels deep."""
    return b'{"a":' * (depth - 1) + b"1" + b"}" * (depth - 1)
