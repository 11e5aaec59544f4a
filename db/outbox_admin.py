"""What an operator does to the outbox: lets the relay try a refused record again, or gives it up."""

from typing import NamedTuple

from db.session import Session, Statement

# The relay holds its lock over a flush of 5 s at most.
RELAY_PATIENCE = "SET LOCAL statement_timeout = '8s'; SET LOCAL lock_timeout = '8s'"


class Refusal(NamedTuple):
    """A refusal that is no more."""

    queue: str
    id: int
    topic: str
    key: str | None
    error: str


DELETE_REFUSAL = Statement(
    "delete_refusal",
    "DELETE FROM sluice.outbox_refusals WHERE queue = $1 AND id = $2 RETURNING queue, id, topic, key, error",
    ("text", "bigint"),
)


def delete_refusal(session: Session, queue: str, number: int) -> Refusal | None:
    """The relay tries this record again; None: it was not refused. May run twice.

    Needs no lock of the relay's: a hint never passes the lowest refused id that its transaction saw.
    """
    rows = session.run(DELETE_REFUSAL, queue, number)
    return Refusal(*rows[0]) if rows else None


# Without a limit: each one holds a key, so there are few.
DELETE_REFUSALS = Statement(
    "delete_refusals",
    """
    DELETE FROM sluice.outbox_refusals WHERE $1 IS NULL OR topic = $1 RETURNING queue, id, topic, key, error
    """,
    ("text",),
)


def delete_refusals(session: Session, topic: str | None) -> list[Refusal]:
    """The relay tries all refused records again; of one topic or of all. May run twice."""
    return sorted(Refusal(*row) for row in session.run(DELETE_REFUSALS, topic))


LOCK_RELAY = Statement(
    "lock_relay",
    "SELECT pg_advisory_xact_lock(hashtext('sluice relay'), hashtext($1))",
    ("text",),
)


def lock_relay(session: Session, queue: str) -> None:
    """Until the transaction ends no relay has anything of this queue in hand.

    Raises LockNotAvailable if one has it for longer than it ever should.
    """
    session.defer(RELAY_PATIENCE)
    session.run(LOCK_RELAY, queue)


# In one statement, so that what is deleted is what was judged.
DELETE_OUTGOING_EVENT = Statement(
    "delete_outgoing_event",
    """
    WITH refusal AS (
        DELETE FROM sluice.outbox_refusals WHERE queue = $1 AND id = $2 RETURNING id
    )
    DELETE FROM sluice.outbox_events
    WHERE queue = $1 AND id = $2 AND ($3 OR EXISTS (SELECT FROM refusal))
    """,
    ("text", "bigint", "bool"),
)


def delete_outgoing_event(session: Session, queue: str, number: int, *, even_if_waiting: bool) -> bool:
    """The event and its refusal are gone and will never be sent; whether there was one to delete.

    One that is not refused is deleted only with `even_if_waiting`. Under the relay's lock of the queue, in a
    statement after it: else it may be on its way to the broker.
    """
    return session.count(DELETE_OUTGOING_EVENT, queue, number, even_if_waiting) == 1
