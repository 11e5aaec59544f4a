"""`sluice status` for people: two tables."""

from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table

from sluice.admin.status.figures import QueueStatus, TopicStatus
from sluice.db.apply.guard import COUNTERS

UNKNOWN = "?"  # of a service that did not answer


def topic_table(topics: Sequence[TopicStatus]) -> Table:
    """Per topic: where the log ends, how far it is applied, what is left, how old that is, the outcomes."""
    counters = _to_show(topic.counters for topic in topics)
    table = _table("topic", "log end", "watermark", "lag", "oldest unapplied", *counters)
    for topic in topics:
        not_begun = topic.counters is not None and topic.watermark is None
        age = topic.oldest_unapplied_seconds
        table.add_row(
            topic.topic,
            _cell(topic.log_end),
            "none" if not_begun else _cell(topic.watermark),
            _cell(topic.lag),
            "-" if age is None else f"{age:.1f} s",
            *_counts(topic.counters, counters),
        )
    return table


def queue_table(queues: Sequence[QueueStatus], *, workers_known: bool) -> Table:
    """Per queue: the messages in its Redis list, the outcomes, who holds its lease, and why it is halted."""
    counters = _to_show(queue.counters for queue in queues)
    table = _table("queue", "in Redis", *counters)
    table.add_column("worker", overflow="fold")
    table.add_column("halted", overflow="fold")
    for queue in queues:
        halted = f"{queue.halted_reason} (since {queue.halted_at})" if queue.halted_reason else ""
        worker = queue.worker or ("-" if workers_known else UNKNOWN)
        table.add_row(queue.queue, _cell(queue.length), *_counts(queue.counters, counters), worker, halted)
    return table


def _to_show(rows: Iterable[Mapping[str, int] | None]) -> list[str]:
    """The counters that are worth a column: a table of zeros hides the one that is none."""
    known = [row for row in rows if row is not None]
    return [name for name in COUNTERS if name == "applied" or any(row[name] for row in known)]


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading.replace("_", " "), justify="right" if number else "left", no_wrap=not number)
    return table


def _counts(counters: Mapping[str, int] | None, names: Iterable[str]) -> list[str]:
    return [_cell(None if counters is None else counters[name]) for name in names]


def _cell(number: int | None) -> str:
    return UNKNOWN if number is None else str(number)
