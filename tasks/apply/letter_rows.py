"""Makes the rows of dead letters and of projection letters from the results of events. Pure."""

import msgspec

from sluice.db.apply.projection_letters import HoldingRow
from sluice.db.records import DeadLetterRow, Outcome
from sluice.db.values import MAX_ERROR_CHARACTERS, printable
from sluice.kafka_io.bounded_record import bounded, count_bytes
from sluice.tasks.events.decode import Decoded
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.events.flaws import write_flaw
from sluice.tasks.fold.fold_state import EventResult, ProjectionLetter
from sluice.tasks.installation.formats import FLAWED_LETTER_FORMAT

KEPT_BYTES = 65_536  # limit for key and headers of a letter without the record's value
NOT_WHOLE = " (Postgres did not store the value in time; a redrive reads the value from Kafka)"


def dead_letter_row(settled: EventResult, *, cut: bool) -> DeadLetterRow:
    """Returns the dead letter of an event, without the record's value if `cut` is True."""
    assert settled.outcome is not None
    assert settled.error is not None
    return _row(settled.planned.decoded, settled.outcome, settled.error, cut=cut)


def projection_letter_row(decoded: Decoded, letter: ProjectionLetter, *, cut: bool) -> HoldingRow:
    """Returns the letter of an event in one generation of a projection, without the record's value if
    `cut` is True.
    """
    return HoldingRow(_row(decoded, letter.outcome, letter.fault, cut=cut), letter.holds)


def _row(decoded: Decoded, outcome: Outcome, error: EventFault, *, cut: bool) -> DeadLetterRow:
    text, record = error.text, decoded.record
    if cut and record.value:
        record = bounded(record, min(KEPT_BYTES, count_bytes(record) - 1))
        text = f"{text[: MAX_ERROR_CHARACTERS - len(NOT_WHOLE)]}{NOT_WHOLE}"
    headers = [(printable(name), None if value is None else value.hex()) for name, value in record.headers]
    return DeadLetterRow(
        decoded.topic,
        decoded.topic_id,
        decoded.partition,
        record.offset,
        record.timestamp_ms,
        None if record.key is None else record.key.hex(),
        None if record.value is None else record.value.hex(),
        msgspec.json.encode(headers).decode(),
        decoded.entity_key,
        decoded.identity,
        decoded.event_id,
        decoded.type,
        decoded.source,
        outcome,
        error.error_class,
        text,
        None if record.flaw is None else write_flaw(record.flaw),
        1 if record.flaw is None else FLAWED_LETTER_FORMAT,
        error.traceback or None,
    )
