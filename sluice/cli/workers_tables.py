"""The workers that share the queues, for people and as JSON. Pure."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any

from rich.table import Table

from sluice.cli.ages import say_age
from sluice.cli.printing import table_of
from sluice.db.delivery.leases import Sharing, Worker

NOT_SEEN = "a worker with -Q holds no lease and is not seen here"


def worker_table(sharing: Sharing) -> Table:
    """Per worker: since when it takes part, what it holds and for how long, what it does and did last."""
    retired = _retired(sharing)
    return table_of(
        ("worker", "pid", "since", "queues", "leases", "busy", "last batch"),
        (
            (
                one.node,
                one.process_id,
                f"{say_age(_seconds(sharing.at, one.joined_at))} ago",
                _say_queues(one.leases.keys(), retired),
                _say_leases(sharing.at, one),
                _say_busy(sharing.at, one),
                _say_last(sharing.at, one),
            )
            for one in sharing.workers
        ),
    )


def lines_below(sharing: Sharing) -> list[str]:
    """What is to be said below the table, or instead of it."""
    if not sharing.leases:
        return ["no queue has a row: run `sluice init`"]
    lines = []
    if not sharing.workers:
        lines.append(
            "no worker shares the queues: start one by `celery -A sluice.runtime.app worker -P solo`"
        )
    if unheld := sharing.unheld():
        lines.append(say_unheld(unheld))
    return [*lines, NOT_SEEN]


def say_unheld(queues: Iterable[str]) -> str:
    """The line that names queues nobody holds."""
    return f"queues without a worker: {name_queues(queues)}"


def name_queues(queues: Iterable[str]) -> str:
    """In order, and briefly: payment.0 payment.2-5."""
    runs: list[tuple[str, list[int]]] = []
    for entity, number in sorted(map(_split, queues)):
        if runs and runs[-1][0] == entity and runs[-1][1][-1] == number - 1:
            runs[-1][1].append(number)
        else:
            runs.append((entity, [number]))
    return " ".join(
        f"{entity}.{run[0]}-{run[-1]}" if len(run) > 2 else " ".join(f"{entity}.{number}" for number in run)
        for entity, run in runs
    )


def sharing_document(sharing: Sharing) -> dict[str, Any]:
    """For --json. Seconds are as of `at`, and None where nothing was told."""
    at, retired = sharing.at, _retired(sharing)
    return {
        "at": at,
        "workers": [
            {
                "node": one.node,
                "process_id": one.process_id,
                "backend_pid": one.backend_pid,
                "joined_at": one.joined_at,
                "heartbeat_at": one.heartbeat_at,
                "queues": [
                    {
                        "queue": queue,
                        "retired": queue in retired,
                        "since": one.leases[queue],
                        "seconds": _age(at, one.leases[queue]),
                    }
                    for queue in _in_order(one.leases)
                ],
                "busy": one.busy_queue
                and {"queue": one.busy_queue, "since": one.busy_since, "seconds": _age(at, one.busy_since)},
                "last_batch": one.last_queue
                and {
                    "queue": one.last_queue,
                    "ended_at": one.last_at,
                    "seconds_ago": _age(at, one.last_at),
                    "records": one.last_records,
                    "took_ms": _milliseconds(one),
                },
            }
            for one in sharing.workers
        ],
        "queues_without_worker": _in_order(sharing.unheld()),
    }


def _in_order(queues: Iterable[str]) -> list[str]:
    return sorted(queues, key=_split)


def _split(queue: str) -> tuple[str, int]:
    # So that payment.2 comes before payment.10.
    entity, _, number = queue.rpartition(".")
    return entity, int(number)


def _retired(sharing: Sharing) -> frozenset[str]:
    return frozenset(lease.queue for lease in sharing.leases if lease.retired)


def _seconds(at: datetime, since: datetime) -> float:
    # What was told while this was read is newer than `at`.
    return max(0.0, (at - since).total_seconds())


def _age(at: datetime, since: datetime | None) -> float | None:
    return None if since is None else _seconds(at, since)


def _say_queues(queues: AbstractSet[str], retired: AbstractSet[str]) -> str | None:
    parts = [name_queues(queues - retired)]
    if queues & retired:
        parts.append(f"(retired: {name_queues(queues & retired)})")
    return " ".join(filter(None, parts)) or None


def _say_leases(at: datetime, worker: Worker) -> str | None:
    ages = sorted(age for since in worker.leases.values() if (age := _age(at, since)) is not None)
    if not ages:
        return None
    youngest, oldest = say_age(ages[0]), say_age(ages[-1])
    return youngest if youngest == oldest else f"{youngest}-{oldest}"


def _say_busy(at: datetime, worker: Worker) -> str | None:
    age = _age(at, worker.busy_since)
    return None if age is None else f"{worker.busy_queue} for {say_age(age)}"


def _say_last(at: datetime, worker: Worker) -> str | None:
    age = _age(at, worker.last_at)
    if age is None:
        return None
    return (
        f"{worker.last_queue} {say_age(age)} ago: records {worker.last_records}, {_milliseconds(worker)} ms"
    )


def _milliseconds(worker: Worker) -> int | None:
    return None if worker.last_seconds is None else round(worker.last_seconds * 1000)
