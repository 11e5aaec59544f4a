"""Makes the Kafka record of an outbox row: CloudEvents 1.0 in binary mode, attributes in headers. Pure."""

import msgspec

from sluice.db.records import WaitingRow
from sluice.kafka_io.record_types import OutgoingRecord

_SET_HERE = frozenset(
    {"ce_specversion", "content-type", "ce_id", "ce_type", "ce_source", "ce_subject", "ce_version"}
)
_read_headers = msgspec.json.Decoder(dict[str, str]).decode


def outgoing_record(row: WaitingRow, source: str) -> OutgoingRecord:
    """Returns the record of a row; `source` is the CloudEvents source of a row that was stored without one.

    The `headers` of the row are included, but cannot replace an attribute that is set here. The headers also
    hold `ce_time` and the trace context, which come from the event that caused the row.
    """
    # Unpacked by position, because access by attribute costs more.
    _, _, event_id, topic, key, type_, version, written, payload, stored_source = row
    headers: dict[str, str | bytes | None] = {
        "ce_specversion": "1.0",
        "content-type": "application/json",
        "ce_id": event_id,
        "ce_type": type_,
        "ce_source": source if stored_source is None else stored_source,
    }
    if key is not None:
        headers["ce_subject"] = key
    if version is not None:
        headers["ce_version"] = version
    if written != "{}":
        for name, value in _read_headers(written).items():
            if name not in _SET_HERE:
                headers[name] = value
    return OutgoingRecord(topic, key, bytes(payload), headers)
