"""`sluice pause|resume`: pauses and resumes one topic or one entity."""

from dataclasses import asdict
from typing import Annotated

import typer

from sluice.admin.connection import connected, read_environment
from sluice.admin.decisions import OperationRefused, decide
from sluice.admin.pause import (
    Resumed,
    park_by_hand,
    pause_topics,
    require_known_topic,
    resume_entity,
    resume_topics,
    why_paused,
)
from sluice.admin.redrive import make_redriver
from sluice.cli.confirmation import DryRun, Reason
from sluice.cli.output import say, say_document
from sluice.cli.printing import AsJson
from sluice.db.apply.dead_letters import load_parked
from sluice.db.connection import BATCH_PLANS

BLOCKED_EXIT_CODE = 1
Topic = Annotated[str | None, typer.Option("--topic", metavar="TOPIC", help="A topic of the handlers.")]
Entity = Annotated[
    str | None, typer.Option("--entity", metavar="ENTITY", help="An entity type; requires KEY.")
]
Key = Annotated[str | None, typer.Argument(metavar="KEY", help="The entity: its record key.")]


def pause(
    reason: Reason,
    key: Key = None,
    topic: Topic = None,
    entity: Entity = None,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Stop reading a topic, or stop applying one entity, until `resume`. Nothing is lost.

    For a topic: records that bridges have read already are still applied.
    For an entity: its events are stored as waiting; events of other
    entities are applied.
    """
    name = _named(topic, entity, key)
    decision = decide("pause", reason)
    with connected("sluice pause", plans=BATCH_PLANS) as session:
        if topic is not None:
            require_known_topic(session, read_environment().registry, topic)
            fresh = why_paused(session, topic) is None
            if not dry_run:
                fresh = pause_topics(session, [topic], decision) == [topic]
        else:
            assert entity is not None
            assert key is not None
            fresh = park_by_hand(session, entity, key, decision, dry_run=dry_run)
    if as_json_:
        say_document({"dry_run": dry_run, "paused": name, "changed": fresh})
    elif fresh:
        say(f"{name} {'would be' if dry_run else 'is'} paused: {reason}")
    else:
        say(f"{name} is paused already")


def resume(
    reason: Reason,
    key: Key = None,
    topic: Topic = None,
    entity: Entity = None,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Resume a topic, or an entity: its waiting events are applied in order.

    Exit code 1 if an event of the entity became a dead letter: later events of
    the entity keep waiting.
    """
    name = _named(topic, entity, key)
    decision = decide("resume", reason)
    resumed: Resumed | None = None
    with connected("sluice pause", plans=BATCH_PLANS) as session:
        if topic is not None:
            fresh = why_paused(session, topic) is not None
            if not dry_run:
                fresh = resume_topics(session, [topic], decision) == [topic]
        else:
            assert entity is not None
            assert key is not None
            fresh = bool(load_parked(session, entity, [key]))
            if fresh and not dry_run:
                redriver = make_redriver(session, read_environment())
                resumed = resume_entity(session, redriver, entity, key, decision)
    if as_json_:
        applied = None if resumed is None else asdict(resumed)
        say_document({"dry_run": dry_run, "resumed": name, "changed": fresh, "redriven": applied})
    else:
        say(_said(name, fresh, resumed, dry_run=dry_run))
    if resumed is not None and not resumed.unparked:
        raise typer.Exit(BLOCKED_EXIT_CODE)


def _said(name: str, fresh: bool, resumed: Resumed | None, *, dry_run: bool) -> str:
    if not fresh:
        return f"{name} is not paused"
    if dry_run:
        return f"{name} would be resumed"
    if resumed is None:
        return f"{name} is resumed"
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(resumed.outcomes.items()))
    waited = f" waiting events: {counts}" if counts else " no event waited"
    if resumed.unparked:
        return f"{name} is resumed;{waited}"
    return f"{name} stays paused, because its first event became a dead letter: {resumed.blocked_by};{waited}"


def _named(topic: str | None, entity: str | None, key: str | None) -> str:
    if topic is not None and entity is None and key is None:
        return f"topic {topic}"
    if topic is None and entity is not None and key is not None:
        return f"{entity} {key}"
    raise OperationRefused("pass --topic TOPIC, or --entity ENTITY KEY")
