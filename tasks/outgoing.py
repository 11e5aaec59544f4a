"""An outbox row as a Kafka record: CloudEvents 1.0 in binary mode, its attributes in headers. Pure."""

from typing import NamedTuple

import msgspec

from db.relay import WaitingRow

_SAME_IN_ALL = (("ce_specversion", "1.0"), ("content-type", "application/json"))
_SET_HERE = frozenset(
    {"ce_specversion", "content-type", "ce_id", "ce_type", "ce_source", "ce_subject", "ce_version"}
)
_read_headers = msgspec.json.Decoder(dict[str, str]).decode


class OutgoingRecord(NamedTuple):
    """What is produced. The same row gives the same record, byte for byte; texts are sent as UTF-8."""

    topic: str
    key: bytes | None
    value: bytes
    headers: list[tuple[str, str | bytes | None]]


def outgoing_record(row: WaitingRow, source: bytes) -> OutgoingRecord:
    """The record of a row; `source` is the CloudEvents source of all that this installation emits.

    What the user wrote as `headers` comes along, but cannot pose as an attribute set here. `ce_time` and the
    trace context are among them: the fold took them from the event's cause.
    """
    key = None if row.key is None else row.key.encode()
    headers: list[tuple[str, str | bytes | None]] = [
        *_SAME_IN_ALL,
        ("ce_id", row.event_id),
        ("ce_type", row.type),
        ("ce_source", source),
    ]
    if key is not None:
        headers.append(("ce_subject", key))
    if row.version is not None:
        headers.append(("ce_version", row.version))
    if row.headers != "{}":
        for name, value in _read_headers(row.headers).items():
            if name not in _SET_HERE:
                headers.append((name, value))
    return OutgoingRecord(row.topic, key, bytes(row.payload), headers)
