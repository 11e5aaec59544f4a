"""`sluice status`: the command and its two tables."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict

import typer

from sluice.admin.connection import read_environment
from sluice.admin.doctor.facts import DEFAULT_PATIENCE_SECONDS
from sluice.admin.status import QueueStatus, Status, TopicStatus, judge_status
from sluice.admin.status_reading import read_status
from sluice.cli.doctor import Patience
from sluice.cli.output import print_refusal, say, say_document
from sluice.cli.printing import AsJson, equal_lines
from sluice.cli.tables import Table, table_of
from sluice.cli.workers import NOT_SEEN, say_unheld
from sluice.db.apply.guard import COUNTERS
from sluice.db.delivery.unread_partitions import describe_unread, group_unread
from sluice.db.records import Outcome
from sluice.runtime.partition_share import WHOLE
from sluice.runtime.terminal_text import counted

UNKNOWN = "?"  # shown for a value of a service that did not answer


def status(patience: Patience = DEFAULT_PATIENCE_SECONDS, as_json: AsJson = False) -> None:
    """Show the progress of each topic and queue, and the outcomes of the events.

    Watermark: every record below it has an outcome. Lag: records
    between the watermark and the end of the log.

    Outcomes: applied, duplicate, stale, conflict, waiting, dead, ignored,
    erased. Call conflict: a call that was not made, because an earlier call
    with the same call key had other arguments. Worker: the worker that holds the
    lease of the queue. A worker with --queues holds no lease. Tables leave
    out columns of zeros, --json does not. Outgoing events and calls:
    `sluice outbox ls`, `sluice effects ls`. Events that failed: `sluice dlq
    ls`.

    Installation: its name and short id, such as shop-1a2b3c4d. The consumer
    group in Kafka has the same name.

    Also reports partitions that no bridge reads, with the reason, and topics
    whose records wait behind an open transaction of a producer. Also reports
    problems of servers and processes; `sluice doctor` adds advice.

    Exit code 1 if a service or the leader of a partition did not answer, or
    if processes refuse this database because it is a copy or belongs to
    another installation. All other facts are still shown. If the numbers of
    some partitions are not known, the sum ends with `+?`.
    """
    settings, registry, urls = read_environment()
    found = judge_status(read_status(settings, urls, registry, patience_seconds=patience), now=time.time())
    if as_json:
        say_document(asdict(found))
    else:
        if found.installation is not None:
            share = "" if found.partition_share == str(WHOLE) else f", share {found.partition_share}"
            say(f"installation and consumer group: {found.installation}{share}", "")
        known = found.queues_without_worker is not None
        say(topic_table(found.topics), "", queue_table(found.queues, workers_known=known))
        if found.queues_without_worker:
            say("", f"{say_unheld(found.queues_without_worker)}; {NOT_SEEN}")
        for sentence in say_what_waits(found):
            say("", sentence)
    places = (sentence.partition(": ") for sentence in found.unreachable)
    for line in equal_lines((place, reason) for place, _, reason in places):
        say(f"sluice: cannot read {line}", err=True)
    if found.refusal is not None:
        print_refusal(found.refusal)
    if found.unreachable or found.refusal is not None:
        raise typer.Exit(1)


def say_what_waits(found: Status) -> Iterator[str]:
    """Yields a sentence for each problem that holds up topics, partitions, effects or entities."""
    for topic, reason in sorted(found.paused_topics.items()):
        yield f"topic {topic} is paused: {reason}"
    for group in group_unread(found.unread):
        yield describe_unread(group)
    for one in found.topics:
        if one.behind_transaction:
            held = ", ".join(
                f"{one.topic}[{part.partition}] {part.behind_transaction}"
                for part in one.partitions
                if part.behind_transaction
            )
            yield (
                f"topic {one.topic}: up to"
                f" {counted(one.behind_transaction, 'record waits', 'records wait')} behind an open"
                f" transaction of a producer ({held}); they are read when this transaction commits, aborts or"
                " times out"
            )
    if found.effects_paused is not None:
        yield f"all calls are paused: {found.effects_paused}"
    yield from (topic.halted_reason for topic in found.topics if topic.halted_reason)
    yield from found.halted_effects.values()
    if found.parked_entities:
        yield f"parked entities: {found.parked_entities}; see `sluice dlq ls`"
    if found.retrying_events:
        yield f"events that are retried: {found.retrying_events}; see `sluice dlq ls --state retrying`"
    yield from found.problems


def topic_table(topics: Sequence[TopicStatus]) -> Table:
    """Returns a row per topic: log end, watermark, lag, age of the oldest unapplied record, outcomes."""
    counters = _to_show(topic.counters for topic in topics)
    numbers = ("log end", "watermark", "lag", "oldest unapplied", *_headings(counters))
    rows = []
    for topic in topics:
        not_begun = topic.counters is not None and topic.watermark is None
        age = topic.oldest_unapplied_seconds
        rows.append(
            (
                topic.topic,
                _cell(topic.log_end, incomplete=topic.incomplete),
                "none" if not_begun else _cell(topic.watermark),
                _cell(topic.lag, incomplete=topic.incomplete),
                None if age is None else f"{age:.1f} s",
                *_counts(topic.counters, counters),
            )
        )
    return table_of(("topic", *numbers), rows, right=numbers)


def queue_table(queues: Sequence[QueueStatus], *, workers_known: bool) -> Table:
    """Returns a row per queue: messages in its Redis list, outcomes, lease holder, reason of a halt."""
    counters = _to_show(queue.counters for queue in queues)
    numbers = ("in Redis", *_headings(counters))
    rows = []
    for queue in queues:
        halted = f"{queue.halted_reason} (since {queue.halted_at})" if queue.halted_reason else ""
        worker = queue.worker or (None if workers_known else UNKNOWN)
        rows.append((queue.queue, _cell(queue.length), *_counts(queue.counters, counters), worker, halted))
    return table_of(("queue", *numbers, "worker", "halted"), rows, folded=("halted",), right=numbers)


def _to_show(rows: Iterable[Mapping[str, int] | None]) -> list[str]:
    """Returns `applied` and each counter that is above zero in at least one row. Columns of zeros would hide
    the others.
    """
    known = [row for row in rows if row is not None]
    return [name for name in COUNTERS if name == Outcome.APPLIED or any(row[name] for row in known)]


def _headings(counters: Iterable[str]) -> list[str]:
    return [name.replace("_", " ") for name in counters]


def _counts(counters: Mapping[str, int] | None, names: Iterable[str]) -> list[str]:
    return [_cell(None if counters is None else counters[name]) for name in names]


def _cell(number: int | None, *, incomplete: bool = False) -> str:
    if number is None:
        return UNKNOWN
    return f"{number}+{UNKNOWN}" if incomplete else str(number)
