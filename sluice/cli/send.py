"""`sluice send`: sends one event typed by hand, or events from a file or a pipe, to Kafka."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO
from uuid import uuid4

import typer
from rich.progress import MofNCompleteColumn

from sluice.admin.event_check import find_flaw
from sluice.admin.event_lines import UNCHECKED, Outgoing, SendRefused, TopicUnknown, parse_lines
from sluice.admin.sender import Sender, read_topics
from sluice.admin.typed_event import TypedEvent, make_record
from sluice.cli.output import say, say_document
from sluice.cli.printing import AsJson
from sluice.cli.progress import progress_bar
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.service_urls import read_addresses
from sluice.runtime.settings import read_settings
from sluice.runtime.terminal_text import counted
from sluice.tasks.api import FieldNames
from sluice.tasks.fold.registry import Registry, collect_handlers


def send(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TOPIC | FILE",
            help="With --key: the topic of one event. Otherwise: a file of lines; `-` is the standard input.",
        ),
    ],
    key: Annotated[str | None, typer.Option("--key", help="Record key: the key of the entity.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Event type, such as order.placed.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Data, as a JSON object. Default: {}.")] = None,
    event_id: Annotated[str | None, typer.Option("--id", help="Event id. Default: a random id.")] = None,
    version: Annotated[
        str | None, typer.Option("--version", help="Version: an integer, or a time as in --time.")
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", help="Time of the event, such as 2026-01-31T10:00:00Z.")
    ] = None,
    headers: Annotated[
        list[str] | None, typer.Option("--header", metavar="NAME=VALUE", help="Header; may be repeated.")
    ] = None,
    tombstone: Annotated[
        bool, typer.Option("--tombstone", help="Send a null value instead of an event.")
    ] = False,
    topic: Annotated[str | None, typer.Option(help="Topic of lines that have no topic.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Maximum lines per second.")] = None,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Also send events that no handler of SLUICE_HANDLERS accepts.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Send one event, or a file of events, and wait until Kafka has acknowledged them.

    One event: sluice send orders --key o-1 --type order.placed
    --data '{"total_cents": 250}'

    A file: sluice send events.jsonl --topic orders

    Each line of a file is one JSON object:

    {"key": "u-1", "value": {…}, "headers": {"ce_id": "1"}, "topic": "users"}

    key: a string, or null. value: any JSON value. An object is an event.
    null is a tombstone. headers: an object with strings as values. headers and topic
    may be left out.

    If SLUICE_HANDLERS is set, each event is checked against the handlers of
    its topic. If a file has a bad line, nothing is sent. If a pipe has a
    bad line, only the lines before it are sent.
    """
    settings = read_settings()
    access = read_addresses(settings).kafka_access
    registry = Registry() if no_check or not settings.handlers else collect_handlers(settings.handlers)
    parts = {
        "--key": key,
        "--type": type_,
        "--data": data,
        "--id": event_id,
        "--version": version,
        "--time": time,
        "--header": headers or None,
        "--tombstone": tombstone or None,
    }
    _check_options({name for name, value in parts.items() if value is not None}, topic=topic, rate=rate)
    if key is None:
        _send_lines(target, access, registry, topic=topic, per_second=rate, as_json=as_json)
        return
    typed = TypedEvent(
        key,
        type_,
        "{}" if data is None else data,
        str(uuid4()) if event_id is None else event_id,
        version,
        time,
        headers or (),
        tombstone,
    )
    _send_typed(target, typed, access, registry, as_json=as_json)


def _check_options(given: set[str], *, topic: str | None, rate: float | None) -> None:
    if not given:
        return
    if "--key" not in given:
        raise typer.BadParameter(
            f"--key is missing: it names the entity (--key o-1); you passed {', '.join(sorted(given))}"
        )
    if topic is not None or rate is not None:
        raise typer.BadParameter(
            "--topic and --rate are only for a file of events; for one event, the first argument is the topic"
        )
    if extra := given - {"--key", "--header", "--tombstone"} if "--tombstone" in given else set():
        raise typer.BadParameter(f"a tombstone has no {', '.join(sorted(extra))}: its value is null")


def _send_typed(
    topic: str, typed: TypedEvent, access: KafkaAccess, registry: Registry, *, as_json: bool
) -> None:
    declared = registry.topics.get(topic)
    record = make_record(topic, typed, FieldNames() if declared is None else declared.fields)
    flaw = find_flaw(registry, record)
    if flaw is not None:
        raise SendRefused(f"nothing was sent: {flaw}; {UNCHECKED}")
    known_topics = read_topics(access)
    if topic not in known_topics:
        raise TopicUnknown(topic, known_topics)
    if declared is None and registry.topics:
        say(f"no module of SLUICE_HANDLERS declares topic {topic}: the event is not checked", err=True)
    sender = _acknowledged(access, [record])
    assert sender.newest is not None
    _, partition, offset = sender.newest
    event_id = None if typed.is_tombstone else typed.event_id
    if as_json:
        say_document({"topic": topic, "partition": partition, "offset": offset, "event_id": event_id})
        return
    what = "tombstone" if typed.is_tombstone else f"event {event_id}"
    place = f"{topic}:{partition}:{offset}"
    say(f"{what} is sent as {place}", f"to see its result: sluice trace {place}")


def _send_lines(
    file: str,
    access: KafkaAccess,
    registry: Registry,
    *,
    topic: str | None,
    per_second: float | None,
    as_json: bool,
) -> None:
    parse = partial(
        parse_lines,
        topic=topic,
        known_topics=read_topics(access),
        find_flaw=partial(find_flaw, registry),
    )
    with _opened(file) as source:
        total = None
        if source.seekable():
            begin = source.tell()
            # All lines are parsed before the first one is sent.
            total = sum(1 for _ in parse(source))
            source.seek(begin)
        with progress_bar("sent", MofNCompleteColumn()) as progress:
            task = progress.add_task("", total=total)
            sender = _acknowledged(
                access, parse(source), per_second=per_second, sent_one=lambda: progress.advance(task)
            )
    topics = dict(sorted(sender.acknowledged.items()))
    if as_json:
        say_document({"acknowledged": sum(topics.values()), "topics": topics})
    else:
        where = ", ".join(f"{number} to {topic}" for topic, number in topics.items())
        total = sum(topics.values())
        say(f"{counted(total, 'event')} acknowledged" + (f": {where}" if where else ""))


def _acknowledged(
    access: KafkaAccess,
    records: Iterable[Outgoing],
    *,
    per_second: float | None = None,
    sent_one: Callable[[], object] = lambda: None,
) -> Sender:
    """Sends the records. Returns the closed sender, which has the numbers of acknowledged records."""
    sender = Sender(access, sent_one=sent_one)
    try:
        sender.send_all(records, per_second=per_second)
    finally:
        sender.close()
    return sender


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        source = Path(file).open("rb")  # noqa: SIM115
    except OSError as error:
        raise SendRefused(
            f"{file} cannot be read: {error.strerror}; to send one event to a topic, pass --key, --type and"
            " --data"
        ) from error
    with source:
        yield source
