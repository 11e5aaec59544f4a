"""`sluice verify`: the command and its output. The command only reads."""

from collections.abc import Sequence
from typing import Any

import typer
from rich.progress import BarColumn, TaskProgressColumn

from sluice.admin.connection import connected, read_environment
from sluice.admin.documents import documents
from sluice.admin.partition_verdict import PartitionVerdict, Verdict, Verified
from sluice.admin.verify import verify as compare_counters
from sluice.cli.output import print_refusal, say, say_document
from sluice.cli.printing import AsJson, say_age
from sluice.cli.progress import progress_bar
from sluice.cli.tables import Table, table_of
from sluice.db.records import LetterState, Outcome
from sluice.runtime.terminal_text import counted, plural

MISMATCH_EXIT_CODE = 1


def verify(as_json_: AsJson = False) -> None:
    """Compare the counters with the log: every processed record must have exactly one outcome.

    Reads each partition from its start, so a long log takes long. Events may
    be applied meanwhile. Gaps from retention or compaction are reported, not
    treated as errors.

    Also counts the work that waits for an operator. Exit code 1 if counters and
    log differ.
    """
    found = _compare()
    if as_json_:
        say_document(verified_document(found))
    else:
        say(partition_table(found.partitions), "", *summary_lines(found))
    if found.mismatches():
        raise typer.Exit(MISMATCH_EXIT_CODE)


def _compare() -> Verified:
    installation = read_environment()
    with (
        connected("sluice verify", report_refusal=print_refusal) as session,
        progress_bar("read", BarColumn(), TaskProgressColumn()) as progress,
    ):
        bar = progress.add_task("", total=None)
        return compare_counters(
            session,
            installation.urls.kafka_access,
            installation.settings.share,
            installation.registry,
            max_record_bytes=installation.settings.max_record_bytes,
            counted=lambda passed, total: progress.update(bar, completed=passed, total=total),
        )


def verified_document(found: Verified) -> dict[str, Any]:
    """Returns the document for --json."""
    return {
        "ok": not found.mismatches(),
        "partitions": found.partitions,
        "dead_letters": documents(found.letters),
        "projection_letters": documents(found.projections),
        "stopped_projections": found.stopped,
        "parked_entities": found.parked,
        "outbox": documents(found.outbox),
        "calls": [{"effect": effect, "state": state, "calls": calls} for effect, state, calls in found.calls],
    }


def partition_table(partitions: Sequence[PartitionVerdict]) -> Table:
    """Returns a row per partition: records in the log, counted outcomes, and the verdict."""
    return table_of(
        ("topic", "partition", "watermark", "records", "outcomes", "", "because"),
        (
            (
                one.topic,
                one.partition,
                one.watermark,
                one.records,
                one.counted,
                one.verdict.value,
                one.said or None,
            )
            for one in partitions
        ),
        folded=("because",),
    )


def summary_lines(found: Verified) -> list[str]:
    """Returns one line for each kind of count, and the verdict."""
    settled = (LetterState.DONE, LetterState.DROPPED)
    open_letters = [one for one in found.letters if one.state not in settled]
    states: dict[str, int] = {}
    for one in open_letters:
        name = Outcome.CONFLICT if one.outcome == Outcome.CONFLICT else one.state
        states[name] = states.get(name, 0) + one.letters
    waiting = sum(one.waiting for one in found.outbox)
    oldest = max((one.oldest_seconds for one in found.outbox), default=0.0)
    unread = sum(one.verdict is Verdict.UNCOUNTABLE for one in found.partitions)
    wrong = len(found.mismatches())
    return [
        "dead letters: "
        + (", ".join(f"{number} {name}" for name, number in sorted(states.items())) or "none"),
        *(
            f"projection {one.projection} lacks {one.failed + one.waiting}"
            f" {plural(one.failed + one.waiting, 'event')}: {one.failed} could not be applied to it,"
            f" {counted(one.waiting, 'waits', 'wait')} behind them"
            for one in found.projections
        ),
        *(f"projection {name} is stopped: its rows are out of date" for name in found.stopped),
        f"parked entities: {found.parked}",
        f"outgoing events: {waiting} wait"
        + (f", the oldest for {say_age(oldest)}" if waiting else "")
        + f", {sum(one.refused for one in found.outbox)} refused",
        "calls: "
        + (", ".join(f"{effect} {calls} {state}" for effect, state, calls in found.calls) or "none"),
        *([f"partitions that cannot be counted in full: {unread}"] if unread else []),
        f"partitions whose counters differ from the log: {wrong}" if wrong else "counters and log agree",
    ]
