"""The outbox for people and as JSON: what waits, what is refused, one event whole. Pure."""

import base64
from collections.abc import Iterable
from typing import Any

import msgspec
from rich.table import Table

from sluice.cli.ages import say_age
from sluice.cli.printing import table_of
from sluice.db.admin.outbox_admin import OutgoingEvent, QueueWaiting, RefusedRecord


def waiting_table(queues: Iterable[QueueWaiting]) -> Table:
    """Per queue: rows that are not sent, how many of them are refused, age of the oldest."""
    return table_of(
        ("queue", "waiting", "refused", "oldest"),
        ((one.queue, one.waiting, one.refused, say_age(one.oldest_seconds)) for one in queues),
    )


def refused_table(records: Iterable[RefusedRecord]) -> Table:
    """Per record: where it is, what it holds back, and the broker's reason."""
    return table_of(
        ("queue", "id", "topic", "key", "since", "behind", "error"),
        (
            (one.queue, one.id, one.topic, one.key, say_age(one.refused_seconds), one.behind, one.error)
            for one in records
        ),
    )


def event_document(event: OutgoingEvent) -> dict[str, Any]:
    """An outgoing event whole. Its payload is `payload` if it is JSON, else `payload_base64`."""
    document = event._asdict()
    payload = bytes(document.pop("payload"))
    try:
        return document | {"payload": msgspec.json.decode(payload)}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return document | {"payload_base64": base64.b64encode(payload).decode()}
