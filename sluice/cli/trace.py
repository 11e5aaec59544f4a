"""`sluice trace`: one event, from its record in Kafka to all its effects."""

from dataclasses import asdict
from typing import Annotated

import typer

from sluice.admin.connection import connected, read_environment
from sluice.admin.documents import documents
from sluice.admin.trace import Trace, find_place, parse_place, trace_place
from sluice.cli.output import print_refusal, say_document
from sluice.cli.printing import AsJson, Full, say_fields


def trace(
    what: Annotated[
        str, typer.Argument(metavar="TOPIC:PARTITION:OFFSET | TOPIC", help="A record, or its topic.")
    ],
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="With TOPIC: the record key.")] = None,
    event_id: Annotated[
        str | None, typer.Argument(metavar="EVENT_ID", help="With TOPIC: the event id.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--source", help="The CloudEvents source of the event, if the event has one."),
    ] = None,
    full: Full = False,
    as_json_: AsJson = False,
) -> None:
    """Show one event with its results: record, outcome, rows, emitted events, calls, dead letter.

    Pass its topic, partition and offset (payments:3:1042), or its topic, key
    and event id.
    """
    settings, registry, urls = read_environment()
    with connected("sluice trace", report_refusal=print_refusal) as session:
        if key is None or event_id is None:
            place = parse_place(registry, what, settings.share)
        else:
            place = find_place(session, registry, what, key, event_id, source)
        found = trace_place(session, registry, urls.kafka_access, settings.share, place)
    _show(found, full=full, as_json_=as_json_)


def _show(found: Trace, *, full: bool, as_json_: bool) -> None:
    calls = documents(found.calls)
    letter = None if found.letter is None else found.letter._asdict()
    document = asdict(found) | {"calls": calls, "letter": letter}
    if as_json_:
        say_document(document)
    else:
        say_fields(document, full=full)
