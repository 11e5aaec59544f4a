"""An Emit as a row of the outbox: the same for handlers and for a user's own transaction. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from sluice.db.records import OutboxRow
from sluice.tasks.api import Emit, Rejected

MAX_EMIT_BYTES = 1_000_000  # brokers refuse records over 1,048,588 bytes by default, headers included
TRACE_HEADERS = ("traceparent", "tracestate")


def outbox_row(emit: Emit, event_id: UUID, time: datetime | None, trace: Mapping[str, str]) -> OutboxRow:
    """The row. `time` and `trace` are those of the event's cause. Raises Rejected if it cannot be sent."""
    payload = msgspec.json.encode(emit.data)
    if len(payload) > MAX_EMIT_BYTES:
        raise Rejected(f"event for {emit.topic} of {len(payload)} bytes, the limit is {MAX_EMIT_BYTES}")
    headers = dict(trace)
    if time is not None:
        headers["ce_time"] = time.isoformat()
    for name, value in emit.headers.items():
        # The relay has no way to reject it any more.
        if type(name) is not str or type(value) is not str:
            raise Rejected(f"event for {emit.topic}: header {name!r} must be a text, not {value!r}")
        headers[name] = value
    version = None if emit.version is None else str(emit.version)
    return OutboxRow(
        event_id,
        emit.topic,
        emit.key,
        emit.type,
        version,
        msgspec.json.encode(headers).decode(),
        payload.decode(),
    )


def trace_of(headers: Iterable[tuple[str, bytes | None]]) -> Iterator[tuple[str, str]]:
    """The W3C trace context among a record's headers."""
    for name, value in headers:
        if name in TRACE_HEADERS and value is not None:
            yield name, value.decode("ascii", "replace")
