"""One event typed by hand, as the record that `sluice send` produces. Pure."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from sluice.admin.documents import as_json
from sluice.admin.event_lines import Outgoing, SendRefused
from sluice.tasks.api import FieldNames
from sluice.tasks.events.envelope import parse_time, parse_version_text
from sluice.tasks.events.strict_json import DecodeError, parse_object


class TypedEvent(NamedTuple):
    """The parts of an event, as typed. A tombstone has neither type nor data nor id."""

    key: str
    type: str | None
    data: str
    event_id: str
    version: str | None = None
    time: str | None = None
    headers: Iterable[str] = ()
    is_tombstone: bool = False


def make_record(topic: str, typed: TypedEvent, fields: FieldNames) -> Outgoing:
    """Returns the record: plain JSON under the field names of its topic. Raises SendRefused."""
    headers = [_header(one) for one in typed.headers]
    key = typed.key.encode()
    if typed.is_tombstone:
        return Outgoing(topic, key, None, headers)
    if typed.type is None:
        raise SendRefused("--type is missing: name the event type, as in --type order.placed")
    event: dict[str, Any] = {fields.event_id: typed.event_id, fields.type: typed.type}
    try:
        if typed.version is not None:
            # A number becomes a number in JSON; a time stays the text that was typed.
            version = parse_version_text("--version", typed.version)
            event[fields.version] = version if type(version) is int else typed.version
        if typed.time is not None:
            parse_time("--time", typed.time)
            event[fields.occurred_at] = typed.time
    except DecodeError as error:
        raise SendRefused(str(error)) from error
    try:
        parse_object(typed.data.encode())
    except DecodeError as error:
        raise SendRefused(
            f"--data {typed.data!r:.80}: {error}; write a JSON object, as in --data '{{\"amount\": 5}}'"
        ) from error
    # Keeps the text as typed, because 1.10 would otherwise become 1.1.
    event[fields.data] = msgspec.Raw(typed.data.encode())
    return Outgoing(topic, key, as_json(event).encode(), headers)


def _header(typed: str) -> tuple[str, bytes]:
    name, equals, value = typed.partition("=")
    if not equals or not name:
        raise SendRefused(f"--header {typed!r:.80}: write NAME=VALUE")
    return name, value.encode()
