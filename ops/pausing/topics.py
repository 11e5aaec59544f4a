"""Pausing topics: a switch per topic in Postgres, which every bridge reads with its progress."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import typer

from db.audit import Decision, insert_audits
from db.session import Session
from db.switches import TOPIC_PAUSED, clear_switch, read_paused_topics, read_switch, set_switch


def pause_topics(session: Session, topics: Sequence[str], decision: Decision) -> list[str]:
    """Bridges read nothing more of these topics within 0.1 s; those for which that is news."""
    with session.transaction():
        fresh = [
            topic
            for topic in topics
            if set_switch(session, TOPIC_PAUSED + topic, actor=decision.actor, reason=decision.reason)
        ]
        insert_audits(session, decision, [(f"topic {topic}", '{"paused": true}') for topic in fresh])
    return fresh


def resume_topics(session: Session, topics: Sequence[str], decision: Decision) -> list[str]:
    """Bridges read these topics on; those for which that is news."""
    with session.transaction():
        fresh = [topic for topic in topics if clear_switch(session, TOPIC_PAUSED + topic)]
        insert_audits(session, decision, [(f"topic {topic}", '{"paused": false}') for topic in fresh])
    return fresh


def why_paused(session: Session, topic: str) -> str | None:
    """The reason; None: it is not paused."""
    return read_switch(session, TOPIC_PAUSED + topic)


@contextmanager
def topics_paused(session: Session, topics: Sequence[str], decision: Decision) -> Iterator[None]:
    """Within it these topics are paused; those that were before stay so afterwards, whatever happens."""
    before = read_paused_topics(session)
    ours = [topic for topic in topics if topic not in before]
    try:
        # Within the `try`: what an interrupt leaves unknown is resumed, too.
        pause_topics(session, ours, decision)
        yield
    finally:
        try:
            resume_topics(session, ours, decision)
        except Exception:
            typer.echo(f"sluice: still paused: {', '.join(ours)}; `sluice resume --topic …`", err=True)
            raise
