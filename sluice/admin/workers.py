"""The workers that share the queues, as a JSON object, and their queues in a short form. Pure."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sluice.db.delivery.leases import Sharing, Worker


def sharing_document(sharing: Sharing) -> dict[str, Any]:
    """Returns the document for --json. Seconds are as of `at`, and None if not reported."""
    at, retired = sharing.at, retired_queues(sharing)
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
                        "seconds": age_seconds(at, one.leases[queue]),
                    }
                    for queue in in_order(one.leases)
                ],
                "busy": one.busy_queue
                and {
                    "queue": one.busy_queue,
                    "since": one.busy_since,
                    "seconds": age_seconds(at, one.busy_since),
                },
                "last_batch": one.last_queue
                and {
                    "queue": one.last_queue,
                    "ended_at": one.last_at,
                    "seconds_ago": age_seconds(at, one.last_at),
                    "records": one.last_records,
                    "took_ms": last_batch_ms(one),
                },
            }
            for one in sharing.workers
        ],
        "queues_without_worker": in_order(sharing.unheld()),
    }


def name_queues(queues: Iterable[str]) -> str:
    """Returns the queues in order and in short form: payment.0 payment.2-5."""
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


def in_order(queues: Iterable[str]) -> list[str]:
    """Returns the queues by entity type, then by number."""
    return sorted(queues, key=_split)


def _split(queue: str) -> tuple[str, int]:
    # Sorts payment.2 before payment.10.
    entity, _, number = queue.rpartition(".")
    return entity, int(number)


def retired_queues(sharing: Sharing) -> frozenset[str]:
    """Returns the queues that get no records since a reshard."""
    return frozenset(lease.queue for lease in sharing.leases if lease.retired)


def seconds_since(at: datetime, since: datetime) -> float:
    """Returns the seconds from `since` to `at`; 0 for times after `at`."""
    return max(0.0, (at - since).total_seconds())


def age_seconds(at: datetime, since: datetime | None) -> float | None:
    """Returns how long `since` was before `at`; None if `since` is unknown."""
    return None if since is None else seconds_since(at, since)


def last_batch_ms(worker: Worker) -> int | None:
    """Returns how long the last batch took, in milliseconds; None before the first one."""
    return None if worker.last_seconds is None else round(worker.last_seconds * 1000)
