"""Retries and drops outgoing events by an operator's decision, each with its row in `audit`."""

import base64
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any, NamedTuple

from psycopg2.errors import LockNotAvailable, QueryCanceled

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json, payload_field
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.admin.outbox_admin import (
    OutgoingEvent,
    Refusal,
    count_refused,
    delete_outgoing_event,
    delete_refusal,
    delete_refusals,
    lock_relay,
    read_outgoing_event,
    read_refused,
    read_refused_page,
)
from sluice.db.admin.waiting_facts import WaitingTopic
from sluice.db.connection import Session
from sluice.tasks.fold.topic_names import topic_name_flaw

MOST_REFUSED = 10_000  # maximum number of records that a dry run of --all lists
PAGE_ROWS = 5_000  # per transaction of `retry --all`
DROP_ROWS = 200  # per transaction of `drop --all`; during the transaction no relay sends events of the queue
SUSPECT_SECONDS = 5.0  # longer than an event for an existing topic waits


class UnsendableTopic(NamedTuple):
    """A topic that does not exist, and the events that wait for it. `queue` and `id` name the first event."""

    topic: str
    queue: str
    id: int
    events: int
    seconds: float
    reason: str


def find_unsendable(
    waiting: Sequence[WaitingTopic], find_missing: Callable[[Sequence[str]], Set[str]]
) -> list[UnsendableTopic]:
    """Returns the topics that do not exist and for which events wait.

    `find_missing` returns the given topics that Kafka does not have. `find_missing` is
    called only for topics whose events wait longer than usual. Its exceptions are not caught.
    """
    flaws = {one.topic: topic_name_flaw(one.topic) for one in waiting}
    suspects = [
        one.topic for one in waiting if flaws[one.topic] is None and one.free_seconds >= SUSPECT_SECONDS
    ]
    missing = find_missing(suspects) if suspects else frozenset()
    reasons = flaws | dict.fromkeys(missing, "Kafka has no such topic")
    return [
        UnsendableTopic(one.topic, one.queue, one.id, one.events, one.free_seconds, reason)
        for one in waiting
        if (reason := reasons[one.topic]) is not None
    ]


def retry_one(
    session: Session, queue: str, number: int, decision: Decision, *, dry_run: bool
) -> list[Refusal]:
    """Lets the relay retry one record. Raises OperationRefused if the record is not refused."""
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
    """Lets the relay retry all refused records, of one topic or of all. Idempotent.

    Uses transactions of PAGE_ROWS. Records that are refused again meanwhile stay refused.
    """
    if dry_run:
        found = read_refused(session, topic, limit=MOST_REFUSED)
        return sorted(Refusal(one.queue, one.id, one.topic, one.key, one.error) for one in found)
    until = count_refused(session, topic).until
    retried: list[Refusal] = []
    while True:
        with session.transaction():
            page = delete_refusals(session, topic, until, limit=PAGE_ROWS)
            _audit_retries(session, decision, page)
        if not page:
            return retried
        retried += page


def _audit_retries(session: Session, decision: Decision, refusals: list[Refusal]) -> None:
    insert_audits(session, decision, [(f"{one.queue}/{one.id}", as_json(one._asdict())) for one in refusals])


def drop_event(session: Session, event: OutgoingEvent, decision: Decision, *, even_if_waiting: bool) -> None:
    """Deletes the event; `audit` keeps a copy. Raises OperationRefused if it was sent or is in flight."""
    with _relay_stopped(session, event.queue):
        if not delete_outgoing_event(session, event.queue, event.id, even_if_waiting=even_if_waiting):
            raise OperationRefused(
                f"{event.queue} {event.id} was sent or retried meanwhile: see `sluice outbox ls`"
            )
        insert_audits(session, decision, [_dropped(event)])


def drop_all(session: Session, topic: str | None, decision: Decision) -> int:
    """Deletes all refused events, of one topic or of all; `audit` keeps them. Returns how many. Idempotent.

    Uses transactions of at most DROP_ROWS of one queue. Events that are refused meanwhile stay.
    """
    until = count_refused(session, topic).until
    dropped = 0
    while page := read_refused_page(session, topic, until, limit=DROP_ROWS):
        queue = page[0][0]
        with _relay_stopped(session, queue):
            subjects = []
            for number in (number for of_queue, number in page if of_queue == queue):
                event = read_outgoing_event(session, queue, number)
                if delete_outgoing_event(session, queue, number, even_if_waiting=False) and event:
                    subjects.append(_dropped(event))
            insert_audits(session, decision, subjects)
        dropped += len(subjects)
    return dropped


@contextmanager
def _relay_stopped(session: Session, queue: str) -> Iterator[None]:
    """Opens a transaction during which no relay sends events of the queue."""
    try:
        with session.transaction():
            lock_relay(session, queue)
            yield
    except (LockNotAvailable, QueryCanceled) as error:
        raise OperationRefused(
            f"a relay has locked queue {queue} for too long: run the command again"
        ) from error


def _dropped(event: OutgoingEvent) -> tuple[str, str]:
    # The payload is not stored as JSON: Postgres stores no text with a NUL, and a payload may contain a NUL.
    kept = event._asdict()
    kept["payload_base64"] = base64.b64encode(kept.pop("payload")).decode()
    return f"{event.queue}/{event.id}", as_json(kept)


def fate(event: OutgoingEvent) -> str:
    """Returns, as part of a sentence, when an event that is not refused will be sent."""
    if event.held_by is not None:
        return (
            f"it will be sent as soon as {event.queue} {event.held_by}, which has the same key, is sent"
            " or dropped"
        )
    return "it will be sent"


def require_event(session: Session, queue: str, number: int) -> OutgoingEvent:
    """Returns the event with all fields. Raises OperationRefused if it does not exist."""
    event = read_outgoing_event(session, queue, number)
    if event is None:
        raise OperationRefused(
            f"no event with id {number} waits in queue {queue}: it was sent, or never existed"
        )
    return event


def require_droppable(event: OutgoingEvent, *, even_if_waiting: bool) -> None:
    """Raises OperationRefused for an event that will be sent, unless `even_if_waiting`."""
    if event.error is None and not even_if_waiting:
        raise OperationRefused(
            f"{event.queue} {event.id} is not refused: {fate(event)} (or pass --even-if-waiting)"
        )


def event_document(event: OutgoingEvent) -> dict[str, Any]:
    """Returns all fields of an outgoing event: `payload` if it is JSON, else `payload_text` or
    `payload_base64`.
    """
    document = event._asdict()
    return document | payload_field("payload", document.pop("payload"))
