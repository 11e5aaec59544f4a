"""`switches`: the switches that operators turned on, with the reasons. A switch is on if it has a row."""

from sluice.db.connection import Session, Statement

READ_SWITCH = Statement("read_switch", "SELECT reason FROM sluice.switches WHERE name = $1", ("text",))
SET_SWITCH = Statement(
    "set_switch",
    """
    INSERT INTO sluice.switches (name, actor, reason) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING
    """,
    ("text", "text", "text"),
)
CLEAR_SWITCH = Statement("clear_switch", "DELETE FROM sluice.switches WHERE name = $1", ("text",))


def read_switch(session: Session, name: str) -> str | None:
    """Returns the reason why the switch is on; None if the switch is off."""
    rows = session.run(READ_SWITCH, name)
    return str(rows[0][0]) if rows else None


def set_switch(session: Session, name: str, *, actor: str, reason: str) -> bool:
    """Turns the switch on. Returns True if its state changed. Idempotent."""
    return session.count(SET_SWITCH, name, actor, reason) == 1


def clear_switch(session: Session, name: str) -> bool:
    """Turns the switch off. Returns True if its state changed. Idempotent."""
    return session.count(CLEAR_SWITCH, name) == 1


# Each paused topic has a row, whose name is `TOPIC_PAUSED` and the topic's name.
TOPIC_PAUSED = "topic paused "
READ_PAUSED_TOPICS = Statement(
    "read_paused_topics",
    f"""
    SELECT substr(name, {len(TOPIC_PAUSED) + 1}), reason FROM sluice.switches
    WHERE starts_with(name, '{TOPIC_PAUSED}')
    """,
)


def read_paused_topics(session: Session) -> dict[str, str]:
    """Returns paused topic → reason."""
    return dict(session.run(READ_PAUSED_TOPICS))
