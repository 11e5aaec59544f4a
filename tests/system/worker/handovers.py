"""Reads the periods in which each worker popped from each queue, from the logs and the times of kills."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from sluice.testing.servers.local_run import RunningProcess


class Span(NamedTuple):
    """The period, in Unix time, in which one worker popped from one queue."""

    queue: str
    worker: str
    began: float
    ended: float


@dataclass
class Handover:
    """The seconds between the spans of two workers at one queue. Negative if the spans overlap."""

    queue: str
    seconds: float


def read_spans(worker: RunningProcess, *, ended_at: float) -> list[Span]:
    """Reads the spans of a worker from its log. `ended_at` ends the spans for which the log has no end."""
    name = f"{worker.name}-{worker.pid}"
    return list(spans_of(worker.log.read_text().splitlines(), name, ended_at))


def spans_of(lines: Iterable[str], worker: str, ended_at: float) -> Iterator[Span]:
    """Yields the spans from log lines. Ignores lines that do not concern leases."""
    began: dict[str, float] = {}
    for line in lines:
        if not line.startswith("{"):
            continue
        entry = json.loads(line)
        if entry["event"] not in ("queue leases acquired", "queue leases released"):
            continue
        at = datetime.fromisoformat(entry["timestamp"].replace("Z", "+00:00")).timestamp()
        for queue in entry["queues"]:
            if entry["event"] == "queue leases acquired":
                began[queue] = at
            elif queue in began:
                yield Span(queue, worker, began.pop(queue), at)
    for queue, at in began.items():
        yield Span(queue, worker, at, ended_at)


def handovers(spans: Iterable[Span]) -> list[Handover]:
    """Returns a handover for each span of a queue that is followed by the span of another worker."""
    by_queue: Mapping[str, list[Span]] = defaultdict(list)
    for span in spans:
        by_queue[span.queue].append(span)
    return [
        Handover(queue, after.began - before.ended)
        for queue, of_queue in by_queue.items()
        for before, after in pairwise(sorted(of_queue, key=lambda span: span.began))
        if before.worker != after.worker
    ]


def overlap_seconds(spans: Iterable[Span]) -> float:
    """Returns the total time in which two workers popped from the same queue."""
    return sum(max(0.0, -handover.seconds) for handover in handovers(spans))
