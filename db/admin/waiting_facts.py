"""Reads waiting work for `sluice doctor`: outgoing events, calls, events that ended a worker."""

from collections.abc import Iterable
from typing import NamedTuple

from sluice.db.admin.outbox_admin import LOOKING
from sluice.db.connection import Session, Statement
from sluice.db.values import text_array

MOST_LISTED = 100
COUNT_TO = 10_000
_DIGITS = 20


class WaitingTopic(NamedTuple):
    """Unsent outgoing events of one topic. `queue` and `id` identify the oldest event."""

    topic: str
    events: int
    queue: str
    id: int
    free: int
    """Number of events that are not refused and do not wait behind a refused event."""
    free_seconds: float
    """Age of the oldest event that is counted in `free`; 0 if `free` is 0."""


# The oldest event is the event with the lowest id of all queues, because all queues draw ids from one
# sequence.
READ_WAITING_TOPICS = Statement(
    "read_waiting_topics",
    f"""
    WITH waiting AS (
        SELECT o.topic, o.queue, o.id, o.created_at, NOT EXISTS (
            SELECT FROM sluice.outbox_refusals r
            WHERE r.queue = o.queue AND (r.id = o.id OR r.topic = o.topic AND r.key = o.key)
        ) AS is_free
        FROM sluice.outbox_events o
    )
    SELECT topic, count(*), min(lpad(id::text, {_DIGITS}, '0') || queue), count(*) FILTER (WHERE is_free),
           coalesce(extract(epoch FROM now() - min(created_at) FILTER (WHERE is_free)), 0)::float8
    FROM waiting GROUP BY topic ORDER BY topic
    """,
)


def read_waiting_topics(session: Session) -> list[WaitingTopic]:
    """Returns the topics for which outgoing events wait."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [
            WaitingTopic(topic, events, first[_DIGITS:], int(first[:_DIGITS]), free, seconds)
            for topic, events, first, free, seconds in session.run(READ_WAITING_TOPICS)
        ]


class DueCalls(NamedTuple):
    """The number of calls that a worker could make now, up to COUNT_TO.

    `seconds`: how long the oldest is due.
    """

    calls: int = 0
    seconds: float = 0.0


class HoldingCall(NamedTuple):
    """A call that has not succeeded.

    `behind`: the number of later calls that it holds back, up to COUNT_TO.
    """

    effect_key: str
    effect: str
    entity: str
    entity_key: str
    state: str
    behind: int


# $2: the effects that hold back later calls. The same rule is in `db/sending/calls.py`.
READ_DUE_CALLS = Statement(
    "read_due_calls",
    f"""
    SELECT count(*), coalesce(extract(epoch FROM now() - min(due_at)), 0)::float8 FROM (
        SELECT e.due_at FROM sluice.executed_side_effects e
        WHERE e.state = 'pending' AND e.due_at <= now() AND e.effect = ANY ($1) AND NOT EXISTS (
            SELECT FROM sluice.executed_side_effects b
            WHERE b.entity = e.entity AND b.entity_key = e.entity_key AND b.effect = e.effect
              AND b.state <> 'succeeded' AND b.id <> e.id
              AND (b.state = 'running' OR b.id < e.id AND (b.state = 'pending' OR b.effect = ANY ($2)))
        )
        ORDER BY e.due_at LIMIT {COUNT_TO}
    ) due
    """,
    ("text[]", "text[]"),
)


def read_due_calls(session: Session, effects: Iterable[str], holding: Iterable[str]) -> DueCalls:
    """Returns the calls of these effects that are due and wait behind no other call."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return DueCalls(*session.run(READ_DUE_CALLS, text_array(effects), text_array(holding))[0])


READ_HOLDING_CALLS = Statement(
    "read_holding_calls",
    f"""
    SELECT h.effect_key, h.effect, h.entity, h.entity_key, h.state, behind.calls
    FROM sluice.executed_side_effects h
    CROSS JOIN LATERAL (
        SELECT count(*) AS calls FROM (
            SELECT FROM sluice.executed_side_effects b
            WHERE b.entity = h.entity AND b.entity_key = h.entity_key AND b.effect = h.effect
              AND b.state = 'pending' AND b.id > h.id LIMIT {COUNT_TO}
        ) counted
    ) behind
    WHERE h.state IN ('failed', 'uncertain') AND h.effect = ANY ($1) AND behind.calls > 0
    ORDER BY h.id LIMIT {MOST_LISTED}
    """,
    ("text[]",),
)


def read_holding_calls(session: Session, holding: Iterable[str]) -> list[HoldingCall]:
    """Returns the calls of these holding effects that hold back later calls, oldest first."""
    with session.transaction("READ ONLY"):
        session.defer(LOOKING)
        return [HoldingCall(*row) for row in session.run(READ_HOLDING_CALLS, text_array(holding))]


class EventDeath(NamedTuple):
    """An event in whose handlers a worker's process ended, and that has no outcome yet."""

    queue: str
    topic: str
    partition: int
    offset: int
    deaths: int
    how: str
    seconds: float
    """Seconds since the newest of these ends."""


READ_EVENT_DEATHS = Statement(
    "read_event_deaths",
    f"""
    SELECT queue, topic, partition, "offset", deaths, how, extract(epoch FROM now() - last_at)::float8
    FROM sluice.handler_deaths ORDER BY last_at DESC LIMIT {MOST_LISTED}
    """,
)


def read_event_deaths(session: Session) -> list[EventDeath]:
    """Returns the events that ended a worker's process, newest first."""
    return [EventDeath(*row) for row in session.run(READ_EVENT_DEATHS)]


# The sum of a queue's offsets increases with each committed batch, because offsets never decrease.
READ_QUEUE_PROGRESS = Statement(
    "read_queue_progress",
    """
    SELECT queue, sum(applied_offset)::bigint FROM sluice.lane_offsets GROUP BY queue ORDER BY queue
    """,
)


def read_queue_progress(session: Session) -> dict[str, int]:
    """Returns queue → a number that increases with each committed batch."""
    return dict(session.run(READ_QUEUE_PROGRESS))


READ_GENERATION_PROGRESS = Statement(
    "read_generation_progress",
    """
    SELECT projection, generation, sum(applied_offset)::bigint
    FROM sluice.generation_offsets GROUP BY projection, generation
    """,
)


def read_generation_progress(session: Session) -> dict[tuple[str, int], int]:
    """Returns (projection, generation) → a number that increases with each write into the generation."""
    return {(name, number): reached for name, number, reached in session.run(READ_GENERATION_PROGRESS)}
