"""Checks a record to send against the declarations of the handlers of its topic. Pure."""

from difflib import get_close_matches
from enum import Enum
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from sluice.admin.event_lines import Outgoing
from sluice.kafka_io.record_types import Record
from sluice.tasks.api import Topic
from sluice.tasks.events.decode import Decoded, decode
from sluice.tasks.events.missing_id import missing_id_error
from sluice.tasks.events.payload import convert_data
from sluice.tasks.events.strict_json import DecodeError
from sluice.tasks.fold.plan import find_entries
from sluice.tasks.fold.registry import AnyEntry, Registry


def find_flaw(registry: Registry, record: Outgoing) -> str | None:
    """Returns why the handlers cannot accept this record, and what its topic expects.

    Returns None if the handlers accept the record, or if no module declares the topic. Does not
    run a handler.
    """
    topic = registry.topics.get(record.topic)
    if topic is None:
        return None
    headers: list[tuple[str, bytes | None]] = list(record.headers)
    decoded = decode(topic, "", 0, Record(0, 0, record.key, record.value, headers))
    event = decoded.event
    if event is None:
        return f"{_text(decoded)}; {_expected_event(registry, topic)}"
    entries = find_entries(registry, event)
    if not entries and event.type not in topic.ignores:
        near = get_close_matches(event.type, _types_of(registry, topic), n=1)
        meant = f", did you mean {near[0]!r}?" if near else ""
        return f"no handler accepts events of type {event.type!r}{meant}; {_expected_types(registry, topic)}"
    if entries and decoded.lacks_id and topic.dedup == "id":
        return str(missing_id_error(topic))
    for entry in entries:
        try:
            convert_data(event.data, entry.data_type)
        except DecodeError as error:
            return f"{error}; the handler {entry.name} expects {describe_type(entry.data_type)}"
    return None


def describe_type(data_type: Any) -> str:
    """Returns the name of a handler's data type and its fields, with their names in JSON."""
    fields = getattr(msgspec.inspect.type_info(data_type), "fields", None)
    if not isinstance(fields, tuple):
        return _annotation(data_type)
    hints = get_type_hints(data_type, include_extras=True)
    listed = [
        f"{one.encode_name}: {_annotation(hints[one.name])}{'' if one.required else ' (optional)'}"
        for one in fields
    ]
    return f"{_annotation(data_type)} {{{', '.join(listed)}}}"


def _annotation(hint: Any) -> str:
    if hint is Any or hint is dict or get_origin(hint) is dict:
        return "an object"
    is_class = isinstance(hint, type) and not get_args(hint)
    if is_class and issubclass(hint, Enum):
        return " | ".join(repr(member.value) for member in hint)
    return hint.__name__ if is_class else str(hint).replace("typing.", "")


def _text(decoded: Decoded) -> str:
    return "" if decoded.error is None else decoded.error.text


def _expected_event(registry: Registry, topic: Topic) -> str:
    fields = topic.fields
    names = (fields.event_id, fields.type, fields.version, fields.occurred_at, fields.data)
    listed = ", ".join(f'"{name}": …' for name in names)
    return f"an event is {{{listed}}} or a CloudEvent; {_expected_types(registry, topic)}"


def _expected_types(registry: Registry, topic: Topic) -> str:
    types = _types_of(registry, topic)
    return f"types of topic {topic.name}: {', '.join(types) or 'none, because no handler accepts its events'}"


def _types_of(registry: Registry, topic: Topic) -> list[str]:
    takers: list[AnyEntry] = [
        entry
        for by_type in (registry.handlers, registry.projections)
        for entries in by_type.values()
        for entry in entries
        if entry.topics is None or topic.name in entry.topics
    ]
    return sorted({kind for entry in takers for kind in entry.types} | set(topic.ignores))
