"""Functions that insert outgoing events, calls, and the errors of events that Kafka refused."""

import json
from typing import Any

from sluice.db.connection import Session
from tests.harness.raw_sql import cursor_of


def insert_event(
    session: Session,
    number: int,
    *,
    queue: str = "order.0",
    topic: str = "out",
    key: str | None = "k",
    payload: bytes = b"{}",
    refused: str | None = None,
) -> None:
    """Inserts an outgoing event. With `refused`, also stores that Kafka refused the event with this error."""
    with cursor_of(session) as cursor:
        cursor.execute(
            "INSERT INTO sluice.outbox_events (queue, id, event_id, topic, key, type, headers, payload)"
            " VALUES (%s, %s, gen_random_uuid(), %s, %s, 'made', '{\"a\": \"1\"}', %s)",
            (queue, number, topic, key, payload),
        )
        if refused is not None:
            cursor.execute(
                "INSERT INTO sluice.outbox_refusals (queue, id, topic, key, error)"
                " VALUES (%s, %s, %s, %s, %s)",
                (queue, number, topic, key, refused),
            )


def insert_call(
    session: Session,
    effect_key: str,
    state: str = "pending",
    *,
    effect: str = "notify",
    entity_key: str | None = "k",
    attempt: int = 0,
    **more: Any,
) -> None:
    """Inserts a call of entity type `order`. `more` are further columns."""
    columns = {
        "effect_key": effect_key,
        "effect": effect,
        "entity": "order",
        "entity_key": entity_key,
        "args": json.dumps({"to": "ann"}),
        "explicit_once": False,
        "state": state,
        "attempt": attempt,
        **more,
    }
    places = ", ".join(["%s"] * len(columns))
    with cursor_of(session) as cursor:
        cursor.execute(
            f"INSERT INTO sluice.executed_side_effects ({', '.join(columns)}, identity, fingerprint)"
            f" VALUES ({places}, gen_random_uuid(), gen_random_uuid())",
            list(columns.values()),
        )


def rows(session: Session, query: str) -> list[tuple[Any, ...]]:
    """Returns the rows of a query."""
    with cursor_of(session) as cursor:
        cursor.execute(query)
        return cursor.fetchall()
