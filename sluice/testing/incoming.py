"""An incoming event of a test, and the record that a producer writes for it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from sluice.kafka_io.record_types import Headers
from sluice.tasks.api import JsonObject, Topic, Version

HeaderValues = Mapping[str, str | bytes | None] | Sequence[tuple[str, bytes | None]]
_CLOUD_ID, _CLOUD_VERSION = "ce_id", "ce_version"


@dataclass(frozen=True)
class Incoming:
    """An event that a test sends. Without `type` it is a tombstone: a record with a null value."""

    topic: str
    key: str | bytes | None = field(kw_only=True)
    type: str | None = field(default=None, kw_only=True)
    data: Any = field(default=None, kw_only=True)
    """A dict or a msgspec Struct; None counts as `{}`."""
    version: Version | None = field(default=None, kw_only=True)
    id: str | None = field(default=None, kw_only=True)
    """If this is None, the world gives the event an id, except for tombstones and topics without ids."""
    time: datetime | None = field(default=None, kw_only=True)
    headers: Mapping[str, str | bytes | None] = field(default_factory=dict, kw_only=True)

    def with_id(self, id: str, topic: Topic) -> "Incoming":
        """Returns the event. If it needs an id and has none, the returned event has this id."""
        if self.id is not None or self.type is None or topic.dedup != "id":
            return self
        return replace(self, id=id)


class RawRecord(NamedTuple):
    """Key, value and headers as stored in Kafka."""

    key: bytes | None
    value: bytes | None
    headers: Headers


def raw_record(topic: Topic, event: Incoming) -> RawRecord:
    """Returns the record of an event: plain JSON with the field names of its topic, or a tombstone.

    Raises ValueError if no producer can write such an event.
    """
    headers = raw_headers(event.headers)
    if event.type is None:
        if event.data is not None or event.time is not None:
            raise ValueError(
                f"cannot send to {topic.name}: a tombstone (an event without type=) has no data= and no time="
            )
        marks = ((_CLOUD_ID, event.id), (_CLOUD_VERSION, _version_text(event.version)))
        headers = [*headers, *((name, str(value).encode()) for name, value in marks if value is not None)]
        return RawRecord(raw_bytes("key", event.key), None, headers)
    names = topic.fields
    envelope: JsonObject = {
        names.event_id: event.id,
        names.type: event.type,
        names.version: _version_text(event.version),
        names.occurred_at: None if event.time is None else _moment("time", event.time),
    }
    value = {name: content for name, content in envelope.items() if content is not None}
    value[names.data] = {} if event.data is None else event.data
    try:
        return RawRecord(raw_bytes("key", event.key), msgspec.json.encode(value), headers)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot send to {topic.name}: data is not JSON: {error}") from error


def raw_bytes(name: str, value: str | bytes | None) -> bytes | None:
    """Returns a text as UTF-8, and bytes and None unchanged. Raises ValueError for any other value."""
    if value is None or isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{name} must be text, bytes or None, not {type(value).__name__} {value!r:.80}")
    return value.encode()


def raw_headers(headers: HeaderValues) -> Headers:
    """Returns headers as pairs of a name and bytes."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return [(name, raw_bytes(f"header {name!r}", value)) for name, value in pairs]


def _version_text(version: Version | None) -> int | str | None:
    if version is None or isinstance(version, int):
        return version
    return _moment("version", version, "an integer or a datetime with an offset")


def _moment(name: str, moment: datetime, expected: str = "a datetime with an offset") -> str:
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise ValueError(f"{name} must be {expected}, not {moment!r:.80}")
    return moment.astimezone(UTC).isoformat()
