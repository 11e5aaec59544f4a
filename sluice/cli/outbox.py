"""`sluice outbox`: shows waiting and refused outgoing events, and retries or drops them."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated

import typer

from sluice.admin.connection import connected
from sluice.admin.decisions import OperationRefused, decide
from sluice.admin.doctor.kafka_reading import find_missing_topics
from sluice.admin.documents import documents
from sluice.admin.outbox import (
    UnsendableTopic,
    drop_all,
    drop_event,
    event_document,
    find_unsendable,
    require_droppable,
    require_event,
    retry_all,
    retry_one,
)
from sluice.admin.service_errors import ServiceFailed, reaching_services
from sluice.cli.confirmation import DryRun, Reason, Yes, require_confirmation
from sluice.cli.output import print_refusal, say, say_document
from sluice.cli.printing import MOST_REASONS, AsJson, Full, equal_lines, say_age, say_fields
from sluice.cli.tables import Table, table_of
from sluice.db.admin.outbox_admin import (
    QueueWaiting,
    RefusalReason,
    RefusedRecord,
    count_refusal_reasons,
    count_refused,
    read_refused,
    read_waiting,
)
from sluice.db.admin.waiting_facts import WaitingTopic, read_waiting_topics
from sluice.runtime.service_urls import read_addresses
from sluice.runtime.settings import read_settings
from sluice.runtime.terminal_text import counted, plural

outbox_app = typer.Typer(
    help="Show waiting and refused outgoing events; retry or drop them.",
    no_args_is_help=True,
)
Queue = Annotated[str, typer.Argument(metavar="QUEUE", help="Queue of the event, from `sluice outbox ls`.")]
Number = Annotated[int, typer.Argument(metavar="ID", help="Id of the event, from `sluice outbox ls`.")]
SomeQueue = Annotated[
    str | None, typer.Argument(metavar="QUEUE", help="Queue of the event, from `sluice outbox ls`.")
]
SomeNumber = Annotated[
    int | None, typer.Argument(metavar="ID", help="Id of the event, from `sluice outbox ls`.")
]
Topic = Annotated[str | None, typer.Option("--topic", help="Only records of this topic.")]


@outbox_app.command()
def ls(
    refused: Annotated[bool, typer.Option("--refused", help="Show only refused records.")] = False,
    topic: Topic = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number of refused records.")] = 50,
    as_json_: AsJson = False,
) -> None:
    """Show the waiting records per queue with their age, and each record that the broker refused.

    A refused record holds back only later records of its queue with the
    same topic and key. The newest record comes first. An error that several
    records share is printed once, with the number of these records. Events
    for a topic that does not exist wait until the topic exists; the list
    shows the topic, the first event and the reason.
    """
    with connected("sluice outbox", report_refusal=print_refusal) as session:
        queues = [] if refused else read_waiting(session, topic)
        records = read_refused(session, topic, limit=limit)
        reasons = [] if as_json_ else count_refusal_reasons(session, topic, limit=MOST_REASONS)
        topics = [] if refused else read_waiting_topics(session)
    unsendable = _find_unsendable([one for one in topics if topic in (None, one.topic)])
    if as_json_:
        shown = {"refused": documents(records)}
        if not refused:
            shown |= {"waiting": documents(queues), "unsendable": documents(unsendable)}
        say_document(shown)
        return
    if queues:
        say(waiting_table(queues), "")
    elif not refused:
        say("no outgoing event waits")
    if unsendable:
        say(unsendable_table(unsendable), "")
    if reasons:
        say(reason_table(reasons), "")
    if records:
        say(refused_table(records, reasons))
    else:
        say("no record is refused")


@outbox_app.command()
def show(queue: Queue, number: Number, full: Full = False, as_json_: AsJson = False) -> None:
    """Show all of one outgoing event: headers, payload, and the reason if it is refused."""
    with connected("sluice outbox", report_refusal=print_refusal) as session:
        document = event_document(require_event(session, queue, number))
    if as_json_:
        say_document(document)
    else:
        say_fields(document, full=full)


@outbox_app.command()
def retry(
    reason: Reason,
    queue: SomeQueue = None,
    number: SomeNumber = None,
    every: Annotated[bool, typer.Option("--all", help="Select all refused records.")] = False,
    topic: Topic = None,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Retry refused records. Repair the broker or the topic first."""
    if every == (number is not None) or (topic is not None and not every):
        raise OperationRefused("pass QUEUE and ID of one record, or --all, optionally with --topic")
    with connected("sluice outbox") as session:
        if queue is not None and number is not None:
            tried = retry_one(session, queue, number, decide("outbox retry", reason), dry_run=dry_run)
        else:
            tried = retry_all(session, topic, decide("outbox retry", reason), dry_run=dry_run)
    if as_json_:
        say_document({"dry_run": dry_run, "retried": documents(tried)})
        return
    verb = "would be tried" if dry_run else "is tried"
    lines = equal_lines(
        (
            f"{one.queue} {one.id} (topic {one.topic}, key {one.key}) {verb} again",
            f"the broker refused it: {one.error}",
        )
        for one in tried
    )
    say(*(lines or ["no record is refused"]))


@outbox_app.command()
def drop(
    reason: Reason,
    queue: SomeQueue = None,
    number: SomeNumber = None,
    every: Annotated[bool, typer.Option("--all", help="Select all refused events.")] = False,
    topic: Topic = None,
    even_if_waiting: Annotated[
        bool, typer.Option("--even-if-waiting", help="Also drop an event that is not refused.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Delete a refused outgoing event, so that the relay sends the events behind it.

    The event will never be sent. sluice.audit keeps a full copy of it.
    """
    if every == (number is not None) or (topic is not None and not every) or (every and even_if_waiting):
        raise OperationRefused(
            "pass QUEUE and ID of one event, or --all, optionally with --topic; --all drops refused events"
        )
    if queue is None or number is None:
        _drop_all(topic, reason, yes=yes, dry_run=dry_run, as_json_=as_json_)
        return
    with connected("sluice outbox") as session:
        event = require_event(session, queue, number)
        require_droppable(event, even_if_waiting=even_if_waiting)
        if not dry_run:
            require_confirmation(
                f"Event {event.event_id} for topic {event.topic} will never be sent.", yes=yes
            )
            drop_event(session, event, decide("outbox drop", reason), even_if_waiting=even_if_waiting)
    if as_json_:
        say_document({"dry_run": dry_run, "dropped": event_document(event)})
    else:
        say(f"{queue} {number} {'would be' if dry_run else 'is'} dropped: event {event.event_id}")


def _drop_all(topic: str | None, reason: str, *, yes: bool, dry_run: bool, as_json_: bool) -> None:
    with connected("sluice outbox") as session:
        dropped = count_refused(session, topic).records
        if dropped and not dry_run:
            require_confirmation(f"{counted(dropped, 'refused event')} will never be sent.", yes=yes)
            dropped = drop_all(session, topic, decide("outbox drop", reason))
    if as_json_:
        say_document({"dry_run": dry_run, "dropped_events": dropped})
    else:
        verb = "would be" if dry_run else plural(dropped, "is", "are")
        say(f"{counted(dropped, 'refused event')} {verb} dropped")


def waiting_table(queues: Iterable[QueueWaiting]) -> Table:
    """Returns a row per queue: the number of unsent events, how many of these are refused, and the
    age of the oldest.
    """
    return table_of(
        ("queue", "waiting", "refused", "oldest"),
        ((one.queue, one.waiting, one.refused, say_age(one.oldest_seconds)) for one in queues),
    )


def reason_table(reasons: Iterable[RefusalReason]) -> Table:
    """Returns a row per topic and reason that several records share, with the number of these records."""
    return table_of(
        ("records", "topic", "error"),
        ((one.records, one.topic, f"{number}: {one.error}") for number, one in enumerate(reasons, 1)),
        folded=("error",),
    )


def unsendable_table(topics: Iterable[UnsendableTopic]) -> Table:
    """Returns a row per topic that does not exist: the first waiting event, the number of events,
    the age of the oldest event, the reason.
    """
    return table_of(
        ("topic", "first queue", "first id", "waiting", "oldest", "reason"),
        ((one.topic, one.queue, one.id, one.events, say_age(one.seconds), one.reason) for one in topics),
    )


def _find_unsendable(waiting: Sequence[WaitingTopic]) -> list[UnsendableTopic]:
    access = read_addresses(read_settings()).kafka_access
    try:
        with reaching_services():
            return find_unsendable(waiting, partial(find_missing_topics, access))
    except ServiceFailed as failed:
        say(f"sluice: missing topics are not shown: {failed}", err=True)
        return []


def refused_table(records: Iterable[RefusedRecord], reasons: Sequence[RefusalReason]) -> Table:
    """Returns a row per record: its queue and id, the records that it holds back, and the reason
    of the broker.
    """
    numbers = {(one.topic, one.error): f"error {n}" for n, one in enumerate(reasons, 1)}
    return table_of(
        ("queue", "id", "topic", "key", "since", "behind", "error"),
        (
            (
                one.queue,
                one.id,
                one.topic,
                one.key,
                say_age(one.refused_seconds),
                one.behind,
                numbers.get((one.topic, one.error), one.error),
            )
            for one in records
        ),
        folded=("error",),
        whole="`sluice outbox show QUEUE ID --full`",
    )
