"""`sluice status`: the command."""

import json
import time
from dataclasses import asdict

import typer
from rich.console import Console

from sluice.admin.status.figures import judge_status
from sluice.admin.status.status_reading import read_status
from sluice.cli.printing import AsJson
from sluice.cli.status_tables import queue_table, topic_table
from sluice.cli.workers_tables import NOT_SEEN, say_unheld
from sluice.runtime.service_urls import read_addresses
from sluice.runtime.settings import read_settings
from sluice.tasks.fold.registry import collect_handlers


def status(as_json: AsJson = False) -> None:
    """Show how far each topic and queue is, and what became of the events.

    Watermark: every record below it has an outcome.
    Lag: records between it and the end of the log.

    Outcomes: applied, duplicate, stale, conflict, waiting, dead, ignored.
    Call conflict: a call not made, since its key had other arguments before.
    Worker: who holds the queue's lease; one with -Q holds none, see `sluice workers`.
    A table leaves out what nowhere occurred, --json does not.
    Outgoing events and calls: `sluice outbox ls`, `sluice effects ls`.
    Events that failed: `sluice dlq ls`.

    Exit code 1 if a service did not answer; what the others say is shown.
    """
    settings = read_settings()
    registry = collect_handlers(settings.handlers)
    found = judge_status(read_status(read_addresses(settings), registry), now=time.time())
    if as_json:
        typer.echo(json.dumps(asdict(found)))
    else:
        console = Console()
        console.print(topic_table(found.topics), "")
        console.print(queue_table(found.queues, workers_known=found.queues_without_worker is not None))
        if found.queues_without_worker:
            typer.echo(f"\n{say_unheld(found.queues_without_worker)}; {NOT_SEEN}")
        for topic, reason in sorted(found.paused_topics.items()):
            typer.echo(f"\ntopic {topic} is paused: {reason}")
        if found.effects_paused is not None:
            typer.echo(f"\nall calls are paused: {found.effects_paused}")
        if found.parked_entities:
            typer.echo(f"\nparked entities: {found.parked_entities}; see `sluice dlq ls`")
    for sentence in found.unreachable:
        typer.echo(f"sluice: not reached: {sentence}", err=True)
    if found.unreachable:
        raise typer.Exit(1)
