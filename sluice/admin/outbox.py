"""What becomes of outgoing events by an operator's decision, each with its row in `audit`."""

import base64
from typing import Any

import msgspec
from psycopg2.errors import LockNotAvailable, QueryCanceled

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.admin.outbox_admin import (
    OutgoingEvent,
    Refusal,
    delete_outgoing_event,
    delete_refusal,
    delete_refusals,
    lock_relay,
    read_outgoing_event,
    read_refused,
)
from sluice.db.connection import Session

MOST_REFUSED = 10_000  # that a dry run of --all lists


def retry_one(
    session: Session, queue: str, number: int, decision: Decision, *, dry_run: bool
) -> list[Refusal]:
    """The relay tries one record again. Raises OperationRefused if it is not refused."""
    event = require_event(session, queue, number)
    refusal = None
    if event.error is not None and dry_run:
        refusal = Refusal(queue, number, event.topic, event.key, event.error)
    elif not dry_run:
        with session.transaction():
            refusal = delete_refusal(session, queue, number)
            _audit_retries(session, decision, [refusal] if refusal else [])
    if refusal is None:
        raise OperationRefused(f"{queue} {number} is not refused: {fate(event)}")
    return [refusal]


def retry_all(session: Session, topic: str | None, decision: Decision, *, dry_run: bool) -> list[Refusal]:
    """The relay tries all refused records again, of one topic or of all. May run twice."""
    if dry_run:
        found = read_refused(session, topic, limit=MOST_REFUSED)
        return [Refusal(one.queue, one.id, one.topic, one.key, one.error) for one in found]
    with session.transaction():
        deleted = delete_refusals(session, topic)
        _audit_retries(session, decision, deleted)
    return deleted


def _audit_retries(session: Session, decision: Decision, refusals: list[Refusal]) -> None:
    insert_audits(session, decision, [(f"{one.queue}/{one.id}", as_json(one._asdict())) for one in refusals])


def drop_event(session: Session, event: OutgoingEvent, decision: Decision, *, even_if_waiting: bool) -> None:
    """The event is gone for ever; `audit` keeps it. Raises OperationRefused if it was sent, or is in hand."""
    # Not as JSON: Postgres keeps no text with a NUL, which a payload may have.
    kept = event._asdict()
    kept["payload_base64"] = base64.b64encode(kept.pop("payload")).decode()
    try:
        with session.transaction():
            lock_relay(session, event.queue)
            if not delete_outgoing_event(session, event.queue, event.id, even_if_waiting=even_if_waiting):
                raise OperationRefused(
                    f"{event.queue} {event.id} was sent or taken up again meanwhile: look again"
                )
            insert_audits(session, decision, [(f"{event.queue}/{event.id}", as_json(kept))])
    except (LockNotAvailable, QueryCanceled) as error:
        raise OperationRefused(f"a relay has queue {event.queue} in hand for too long: try again") from error


def fate(event: OutgoingEvent) -> str:
    """What becomes of an event that is not refused."""
    if event.held_by is not None:
        return f"it will be sent once {event.queue} {event.held_by}, which holds its key, is sent or dropped"
    return "it will be sent"


def require_event(session: Session, queue: str, number: int) -> OutgoingEvent:
    """The event whole. Raises OperationRefused if there is none."""
    event = read_outgoing_event(session, queue, number)
    if event is None:
        raise OperationRefused(
            f"nothing with id {number} waits in queue {queue}: it was sent, or never there"
        )
    return event


def require_droppable(event: OutgoingEvent, *, even_if_waiting: bool) -> None:
    """Raises OperationRefused for an event that will be sent, unless `even_if_waiting`."""
    if event.error is None and not even_if_waiting:
        raise OperationRefused(
            f"{event.queue} {event.id} is not refused: {fate(event)} (or say --even-if-waiting)"
        )


def event_document(event: OutgoingEvent) -> dict[str, Any]:
    """An outgoing event whole. Its payload is `payload` if it is JSON, else `payload_base64`."""
    document = event._asdict()
    payload = bytes(document.pop("payload"))
    try:
        return document | {"payload": msgspec.json.decode(payload)}
    except (msgspec.DecodeError, UnicodeDecodeError):
        return document | {"payload_base64": base64.b64encode(payload).decode()}
