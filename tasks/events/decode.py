"""Makes an event from a Kafka record: CloudEvents 1.0 (binary, structured), plain JSON, tombstones."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from sluice.kafka_io.record_types import Headers, Record
from sluice.tasks.api import Event, JsonObject, Topic, Version
from sluice.tasks.events.envelope import (
    MAX_SOURCE_CHARACTERS,
    optional_text,
    parse_time,
    parse_version,
    parse_version_text,
    readable_text,
    require_text,
)
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.events.flaws import flaw_error
from sluice.tasks.events.identity import event_identity, hash_content, hash_raw, read_key, record_identity
from sluice.tasks.events.payload import convert_data
from sluice.tasks.events.strict_json import DecodeError, canonical, parse_object, peek_object, require_object

__all__ = ["DecodeError", "Decoded", "convert_data", "decode"]

Attributes: TypeAlias = Mapping[str, bytes | None]

WITHOUT_IDENTITIES = ("natural", "position")
"""The modes of topics whose events have no stored identities."""

_SPECVERSION = "1.0"
_CLOUD_PREFIX = "ce_"
_CONTENT_TYPE = "content-type"
_ANY_CLOUD_TYPE = b"application/cloudevents"
_JSON_CLOUD_TYPE = b"application/cloudevents+json"
_NO_ATTRIBUTES: Attributes = {}

_Envelope: TypeAlias = tuple[str | None, str, str | None, Version | None, datetime | None, JsonObject]
"""Id, type, source, version, time and data. A NamedTuple would take ten times as long to make."""


class Decoded(msgspec.Struct, frozen=True):
    """A decoded record. Either `event` (data as generic JSON) or `error` is set.

    `event_id`, `type` and `source` of an undecodable record are set if they could be read. `entity_key` is
    None if the record key names no entity.
    """

    record: Record
    topic: str
    topic_id: str
    partition: int
    entity_key: str | None
    identity: UUID
    data_hash: UUID
    event: Event[Any] | None
    error: EventFault | None
    event_id: str | None
    type: str | None
    source: str | None
    dedup: str = "id"
    """The mode of the topic. With one of WITHOUT_IDENTITIES, `identity` is that of the place."""

    @property
    def stores_identity(self) -> bool:
        """Returns True if a stored identity shows that the event was applied."""
        return self.dedup not in WITHOUT_IDENTITIES

    @property
    def is_natural(self) -> bool:
        """Returns True if the event may be applied again, because its versions make this harmless."""
        return self.dedup == "natural"

    @property
    def lacks_id(self) -> bool:
        """Returns True for an event without an id; False for a null value, which cannot hold an id."""
        return self.event_id is None and self.event is not None and self.record.value is not None


def decode(topic: Topic, topic_id: str, partition: int, record: Record) -> Decoded:
    """Decodes one record. Deterministic. Never raises for anything that a producer can send."""
    offset, _, raw_key, value, headers, flaw = record
    if flaw is not None:
        return _undecodable(topic, topic_id, partition, record, flaw_error(flaw))
    try:
        attributes = _cloud_attributes(headers) if headers else _NO_ATTRIBUTES
        id_, type_, source, version, time, data = _open(topic, value, attributes)
    except DecodeError as error:
        return _undecodable(topic, topic_id, partition, record, error)
    key, name, dedup = read_key(raw_key), topic.name, topic.dedup
    if id_ is None or dedup != "id":
        identity = record_identity(topic_id, partition, offset)
    else:
        identity = event_identity(name, source, raw_key, id_)
    content = hash_content(type_, version, canonical(data))
    others = _other_headers(headers) if headers else ()
    event = Event(id_, type_, key, version, time, data, name, partition, offset, others)
    return Decoded(
        record,
        name,
        topic_id,
        partition,
        key,
        identity,
        content,
        event,
        None,
        id_,
        type_,
        source,
        dedup,
    )


def former_identity(decoded: Decoded) -> UUID | None:
    """Returns the other identity of the event: that of its id, or of its place. None if it has no id."""
    if decoded.event is None or decoded.event_id is None:
        return None
    by_id = event_identity(decoded.topic, decoded.source, decoded.record.key, decoded.event_id)
    if decoded.identity != by_id:
        return by_id
    return record_identity(decoded.topic_id, decoded.partition, decoded.record.offset)


def _open(topic: Topic, value: bytes | None, attributes: Attributes) -> _Envelope:
    if value is None:
        return _tombstone(topic, attributes)
    if len(value) > topic.max_bytes:
        raise DecodeError(f"the value has {len(value)} bytes, the topic's limit is {topic.max_bytes}")
    body = parse_object(value)
    if attributes and _is_structured(attributes):
        return _structured(topic, body)
    if "ce_specversion" in attributes:
        return _binary(topic, body, attributes)
    return _plain(topic, body)


def _read_id(topic: Topic, name: str, value: object) -> str | None:
    """Returns the event id, None if it is missing, null or empty. No checks if `dedup` ignores ids."""
    if topic.dedup != "id":
        return readable_text(value)
    return None if value == "" else optional_text(name, value)


def _read_header_id(topic: Topic, attributes: Attributes) -> str | None:
    read = _header_text if topic.dedup == "id" else _peek_header
    return _read_id(topic, "ce_id", read(attributes, "ce_id"))


def _plain(topic: Topic, body: JsonObject) -> _Envelope:
    fields, get = topic.fields, body.get
    return (
        _read_id(topic, fields.event_id, get(fields.event_id)),
        require_text(fields.type, get(fields.type)),
        None,
        parse_version(fields.version, get(fields.version)),
        parse_time(fields.occurred_at, get(fields.occurred_at)),
        require_object(fields.data, get(fields.data, body)),
    )


def _structured(topic: Topic, body: JsonObject) -> _Envelope:
    _check_specversion(body.get("specversion"))
    if "data" not in body:
        raise DecodeError("data is missing (data_base64 is not supported)")
    return (
        _read_id(topic, "id", body.get("id")),
        require_text("type", body.get("type")),
        require_text("source", body.get("source"), MAX_SOURCE_CHARACTERS),
        parse_version_text("version", body.get("version")),
        parse_time("time", body.get("time")),
        require_object("data", body["data"]),
    )


def _binary(topic: Topic, body: JsonObject, attributes: Attributes) -> _Envelope:
    _check_specversion(_header_text(attributes, "ce_specversion"))
    return (
        _read_header_id(topic, attributes),
        require_text("ce_type", _header_text(attributes, "ce_type")),
        require_text("ce_source", _header_text(attributes, "ce_source"), MAX_SOURCE_CHARACTERS),
        parse_version_text("ce_version", _header_text(attributes, "ce_version")),
        parse_time("ce_time", _header_text(attributes, "ce_time")),
        body,
    )


def _tombstone(topic: Topic, attributes: Attributes) -> _Envelope:
    # A null value cannot hold an envelope, and tools that write null values set no headers. So no attribute
    # is required.
    if "ce_specversion" in attributes:
        _check_specversion(_header_text(attributes, "ce_specversion"))
    return (
        _read_header_id(topic, attributes),
        _tombstone_type(topic),
        optional_text("ce_source", _header_text(attributes, "ce_source"), MAX_SOURCE_CHARACTERS),
        parse_version_text("ce_version", _header_text(attributes, "ce_version")),
        parse_time("ce_time", _header_text(attributes, "ce_time")),
        {},
    )


def _tombstone_type(topic: Topic) -> str:
    return topic.tombstone_type or f"{topic.entity.name}.deleted"


def _check_specversion(value: object) -> None:
    if value != _SPECVERSION:
        raise DecodeError(f"CloudEvents specversion must be {_SPECVERSION}, found {value!r:.80}")


def _is_structured(attributes: Attributes) -> bool:
    content_type = (attributes.get(_CONTENT_TYPE) or b"").lower()
    if not content_type.startswith(_ANY_CLOUD_TYPE):
        return False
    if content_type.partition(b";")[0].strip() != _JSON_CLOUD_TYPE:
        raise DecodeError(f"content-type {content_type!r:.80} is not supported, only {_JSON_CLOUD_TYPE!r}")
    return True


def _cloud_attributes(headers: Headers) -> Attributes:
    """Returns the CloudEvents headers and the content type, by name in lower case."""
    found: dict[str, bytes | None] = {}
    for written_name, value in headers:
        name = written_name.lower()
        if (name.startswith(_CLOUD_PREFIX) or name == _CONTENT_TYPE) and found.setdefault(
            name, value
        ) != value:
            raise DecodeError(f"the header {name!r:.80} occurs twice with different values")
    return found


def _other_headers(headers: Headers) -> tuple[tuple[str, bytes | None], ...]:
    return tuple([(name, value) for name, value in headers if not name.lower().startswith(_CLOUD_PREFIX)])


def _header_text(attributes: Attributes, name: str) -> str | None:
    value = attributes.get(name)
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        raise DecodeError(f"the header {name} is not UTF-8") from None


def _undecodable(topic: Topic, topic_id: str, partition: int, record: Record, error: DecodeError) -> Decoded:
    # The identity is topic, partition and offset. With an id from a damaged record, a good event that has the
    # same id would count as a duplicate.
    identity = record_identity(topic_id, partition, record.offset)
    id_, type_, source = _peek(topic, record)
    return Decoded(
        record,
        topic.name,
        topic_id,
        partition,
        read_key(record.key),
        identity,
        hash_raw(record.value),
        None,
        EventFault.of(error),
        readable_text(id_),
        readable_text(type_),
        readable_text(source, MAX_SOURCE_CHARACTERS),
        topic.dedup,
    )


def _peek(topic: Topic, record: Record) -> tuple[object, object, object]:
    """Returns id, type and source of a refused record, without checks."""
    try:
        attributes = _cloud_attributes(record.headers)
        structured = _is_structured(attributes)
    except DecodeError:
        return None, None, None
    is_tombstone = record.value is None and not (record.flaw is not None and record.flaw.is_cut)
    if record.value is None or (not structured and "ce_specversion" in attributes):
        type_ = _tombstone_type(topic) if is_tombstone else _peek_header(attributes, "ce_type")
        return _peek_header(attributes, "ce_id"), type_, _peek_header(attributes, "ce_source")
    body = peek_object(record.value) if len(record.value) <= topic.max_bytes else {}
    if structured:
        return body.get("id"), body.get("type"), body.get("source")
    return body.get(topic.fields.event_id), body.get(topic.fields.type), None


def _peek_header(attributes: Attributes, name: str) -> str | None:
    try:
        return _header_text(attributes, name)
    except DecodeError:
        return None
