"""`sluice verify`: the command. It only reads."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from sluice.admin.documents import as_json
from sluice.admin.verify.log_counter import LogCounter
from sluice.admin.verify.partition_verdict import LogFacts, judge_partition
from sluice.admin.verify.verified import Verified
from sluice.cli.printing import AsJson
from sluice.cli.verify_tables import partition_table, summary_lines, verified_document
from sluice.db.admin.audit import read_audits
from sluice.db.admin.letters import Chosen, count_letters
from sluice.db.admin.open_letters import count_parked
from sluice.db.admin.outbox_admin import read_waiting
from sluice.db.admin.totals import PartitionTotals, read_call_states, read_partition_totals
from sluice.db.connection import Session
from sluice.runtime.place import Place
from sluice.runtime.service_urls import read_addresses
from sluice.runtime.settings import read_settings
from sluice.tasks.fold.registry import collect_handlers

MISMATCH_EXIT_CODE = 1


def verify(as_json_: AsJson = False) -> None:
    """Compare the counters with the log: every record that is applied has exactly one outcome.

    Reads each partition from its start, which takes as long as reading takes;
    events may be applied meanwhile. Where records were deleted or compacted
    the log no longer tells all: said, and no error.

    Also counts what waits for somebody. Exit code 1 if counters and log differ.
    """
    settings = read_settings()
    urls, registry = read_addresses(settings), collect_handlers(settings.handlers)
    with closing(Session(urls.database_url, application_name="sluice verify")) as session:
        # Before the log is read: whatever was counted by now is in the log by then.
        totals = read_partition_totals(session)
        letters = count_letters(session, Chosen())
        parked, outbox = count_parked(session), read_waiting(session, None)
        calls = read_call_states(session)
        rerouted = {place[0] for place, of in totals.items() if _was_rerouted(session, place[0], of.entity)}
    logs = _read_logs(urls.kafka_bootstrap_servers, totals)
    latest = {topic.name for topic in registry.topics.values() if topic.start == "latest"}
    partitions = [
        judge_partition(
            *place, of, logs.get(place), from_the_end=place[0] in latest, rerouted=place[0] in rerouted
        )
        for place, of in totals.items()
    ]
    found = Verified(partitions, letters, parked, outbox, calls)
    if as_json_:
        typer.echo(as_json(verified_document(found)))
    else:
        Console().print(partition_table(partitions), "")
        typer.echo("\n".join(summary_lines(found)))
    if found.mismatches():
        raise typer.Exit(MISMATCH_EXIT_CODE)


def _was_rerouted(session: Session, topic: str, entity: str) -> bool:
    """Whether an operator has let records be counted twice, or outcomes of another log be kept."""
    forced = (row.details or {} for row in read_audits(session, verb="reshard", subject=entity, limit=1_000))
    accepted = read_audits(session, verb="accept", subject=topic, limit=1)
    return bool(accepted) or any(details.get("force") for details in forced)


def _read_logs(servers: str, totals: Mapping[Place, PartitionTotals]) -> dict[Place, LogFacts]:
    logs: dict[Place, LogFacts] = {}
    with (
        _progress() as progress,
        closing(
            LogCounter(servers, counted=lambda offsets: progress.advance(progress.task_ids[0], offsets))
        ) as counter,
    ):
        bounds = counter.read_bounds(totals)
        compacted = counter.read_compacted(sorted({topic for topic, _ in bounds}))
        progress.update(
            progress.task_ids[0], total=sum(max(0, end - start) for start, end in bounds.values())
        )
        for place, (start, end) in bounds.items():
            is_compacted = place[0] in compacted
            logs[place] = counter.count(place, totals[place], start, end, compacted=is_compacted)
    return logs


@contextmanager
def _progress() -> Iterator[Progress]:
    console = Console(stderr=True)
    columns = (TextColumn("read"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task("", total=None)
        yield progress
