"""`sluice trace`: one event, from its record in Kafka to all that came of it."""

from dataclasses import asdict
from typing import Annotated

import typer

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json, documents
from sluice.admin.trace import Trace
from sluice.admin.trace import trace as follow
from sluice.cli.printing import AsJson, field_lines
from sluice.db.admin.tracing import read_traced
from sluice.db.connection import Session
from sluice.db.delivery.progress import read_assignments
from sluice.kafka_io.log_reader import LogReader
from sluice.runtime.settings import read_settings
from sluice.tasks.api import Topic
from sluice.tasks.events.identity import event_identity
from sluice.tasks.fold.registry import Registry, collect_handlers


def trace(
    what: Annotated[
        str, typer.Argument(metavar="TOPIC:PARTITION:OFFSET | TOPIC", help="A record, or its topic.")
    ],
    key: Annotated[str | None, typer.Argument(help="With TOPIC alone: the record key.")] = None,
    event_id: Annotated[str | None, typer.Argument(help="And the event's id.")] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="Its CloudEvents source, if it has one.")
    ] = None,
    as_json_: AsJson = False,
) -> None:
    """Show what became of one event: record, outcome, rows, events it emitted, calls, dead letter.

    Name it by its place in Kafka (payments:3:1042), or by topic, key and event id.
    """
    settings = read_settings()
    registry = collect_handlers(settings.handlers)
    session = Session(settings.database_url.get_secret_value(), application_name="sluice trace")
    try:
        if key is None or event_id is None:
            topic, partition, offset = _parse_place(registry, what)
        else:
            topic, partition, offset = _find(session, registry, what, key, event_id, source)
        assignment = read_assignments(session, [(topic.name, partition)]).get((topic.name, partition))
        if assignment is None:
            raise OperationRefused(f"no bridge has begun topic {topic.name}: nothing of it was applied")
        reader = LogReader(settings.kafka_bootstrap_servers)
        try:
            record = reader.read_record((topic.name, partition), offset)
        finally:
            reader.close()
        if record is None:
            raise OperationRefused(f"{topic.name}:{partition}:{offset} is not, or no longer, in Kafka")
        found = follow(session, registry, topic, assignment.topic_id, partition, record)
    finally:
        session.close()
    _show(found, as_json_=as_json_)


def _parse_place(registry: Registry, what: str) -> tuple[Topic, int, int]:
    name, *place = what.rsplit(":", 2)
    if len(place) != 2 or not all(part.isdigit() for part in place):
        raise OperationRefused("name a record as TOPIC:PARTITION:OFFSET, or give TOPIC, KEY and EVENT_ID")
    return _declared(registry, name), int(place[0]), int(place[1])


def _find(
    session: Session, registry: Registry, name: str, key: str, event_id: str, source: str | None
) -> tuple[Topic, int, int]:
    topic = _declared(registry, name)
    known = read_traced(session, event_identity(name, source, key.encode(), event_id))
    if known is None:
        raise OperationRefused(
            f"no event {event_id} of key {key} is known of topic {name}: it was not applied yet, its identity"
            " is forgotten by now, or it has a CloudEvents source (--source)"
        )
    return topic, known.partition, known.offset


def _declared(registry: Registry, name: str) -> Topic:
    if name not in registry.topics:
        raise OperationRefused(
            f"topic {name} is declared by no module; there are {', '.join(sorted(registry.topics))}"
        )
    return registry.topics[name]


def _show(found: Trace, *, as_json_: bool) -> None:
    calls = documents(found.calls)
    letter = None if found.letter is None else found.letter._asdict()
    document = asdict(found) | {"calls": calls, "letter": letter}
    typer.echo(as_json(document) if as_json_ else "\n".join(field_lines(document)))
