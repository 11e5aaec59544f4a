"""`sluice workers`: the command and its table."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from datetime import datetime

from sluice.admin.connection import connected
from sluice.admin.workers import (
    age_seconds,
    last_batch_ms,
    name_queues,
    retired_queues,
    seconds_since,
    sharing_document,
)
from sluice.cli.output import print_refusal, say, say_document
from sluice.cli.printing import AsJson, say_age
from sluice.cli.tables import Table, table_of
from sluice.db.delivery.leases import Sharing, Worker, read_workers

NOT_SEEN = "a worker with --queues holds no lease and is not listed here"


def workers(as_json_: AsJson = False) -> None:
    """Show the workers that share the queues: their start, their queues and their current batch.

    Leases: the ages of the worker's leases, youngest to oldest. A lease is the
    right to serve a queue. --json shows the age per queue.
    Busy: the queue whose batch is in flight. The report of a worker may be one
    second old.

    A worker with --queues holds no lease and is not listed here: see Flower or
    `sluice doctor`.
    """
    with connected("sluice workers", report_refusal=print_refusal) as session:
        found = read_workers(session)
    if as_json_:
        say_document(sharing_document(found))
        return
    if found.workers:
        say(worker_table(found), "")
    say(*lines_below(found))


def worker_table(sharing: Sharing) -> Table:
    """Returns a row per worker: its start, its queues and their ages, its current and its last batch."""
    retired = retired_queues(sharing)
    return table_of(
        ("worker", "pid", "since", "queues", "leases", "busy", "last batch"),
        (
            (
                one.node,
                one.process_id,
                f"{say_age(seconds_since(sharing.at, one.joined_at))} ago",
                _say_queues(one.leases.keys(), retired),
                _say_leases(sharing.at, one),
                _say_busy(sharing.at, one),
                _say_last(sharing.at, one),
            )
            for one in sharing.workers
        ),
        folded=("queues", "last batch"),
    )


def lines_below(sharing: Sharing) -> list[str]:
    """Returns the lines below the table, or instead of it."""
    if not sharing.leases:
        return ["no queue has a row: run `sluice init`"]
    lines = []
    if not sharing.workers:
        lines.append("no worker shares the queues: start one by `sluice worker`")
    if unheld := sharing.unheld():
        lines.append(say_unheld(unheld))
    return [*lines, NOT_SEEN]


def say_unheld(queues: Iterable[str]) -> str:
    """Returns the line that names queues without a worker."""
    return f"queues without a worker: {name_queues(queues)}"


def _say_queues(queues: AbstractSet[str], retired: AbstractSet[str]) -> str | None:
    parts = [name_queues(queues - retired)]
    if queues & retired:
        parts.append(f"(retired: {name_queues(queues & retired)})")
    return " ".join(filter(None, parts)) or None


def _say_leases(at: datetime, worker: Worker) -> str | None:
    ages = sorted(age for since in worker.leases.values() if (age := age_seconds(at, since)) is not None)
    if not ages:
        return None
    youngest, oldest = say_age(ages[0]), say_age(ages[-1])
    return youngest if youngest == oldest else f"{youngest}-{oldest}"


def _say_busy(at: datetime, worker: Worker) -> str | None:
    age = age_seconds(at, worker.busy_since)
    return None if age is None else f"{worker.busy_queue} for {say_age(age)}"


def _say_last(at: datetime, worker: Worker) -> str | None:
    age = age_seconds(at, worker.last_at)
    if age is None:
        return None
    return (
        f"{worker.last_queue} {say_age(age)} ago: records {worker.last_records}, {last_batch_ms(worker)} ms"
    )
