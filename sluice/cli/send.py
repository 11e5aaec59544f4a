"""`sluice send`: events into Kafka, from a file or from the shop's generator."""

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from kafka import KafkaAdminClient
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn

from examples.shop.generate import KINDS, generate
from sluice.admin.event_lines import Outgoing, SendRefused, TopicUnknown, parse_lines
from sluice.admin.sender import BOOTSTRAP_TIMEOUT_MS, Sender
from sluice.cli.printing import AsJson
from sluice.runtime.service_urls import read_addresses
from sluice.runtime.settings import read_settings

_KINDS = ", ".join(sorted(KINDS))


def send(
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="Lines to send; `-` is the standard input.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Topic of lines that name none, and of generated events.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--generate", metavar="KIND", help=f"Make events instead: {_KINDS}.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many to make.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same events again.")] = 1,
    keys: Annotated[int, typer.Option(min=1, help="About how many entities the made events are of.")] = 100,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Events per second at most.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send events to Kafka and wait until it has them.

    Each line of FILE is one JSON object:

    {"key": "u-1", "value": {…}, "headers": {"ce_id": "1"}, "topic": "users"}

    key: a string, or null. value: any JSON; an object is an event,
    null a tombstone. headers (of strings) and topic may be left out.

    A file with a bad line is refused before anything is sent;
    a pipe is sent up to that line.

    Example: sluice send --generate payments --count 1000
    """
    if (file is None) == (kind is None):
        raise SendRefused("give a FILE (`-` is the standard input) or --generate KIND, one of both")
    if kind is not None and kind not in KINDS:
        raise SendRefused(f"{kind} is no kind of event; there are {_KINDS}")
    servers = read_addresses(read_settings()).kafka_bootstrap_servers
    known_topics = _read_topics(servers)
    with ExitStack() as stack:
        total: int | None = count
        if kind is not None:
            records = _made(kind, topic, count, seed, keys, known_topics)
        else:
            source = stack.enter_context(_opened(file or "-"))
            total = None
            if source.seekable():
                begin = source.tell()
                # All lines are judged before the first one is sent.
                total = sum(1 for _ in parse_lines(source, topic=topic, known_topics=known_topics))
                source.seek(begin)
            records = parse_lines(source, topic=topic, known_topics=known_topics)
        _send(servers, records, total=total, per_second=rate, as_json=as_json)


def _send(
    servers: str, records: Iterable[Outgoing], *, total: int | None, per_second: float | None, as_json: bool
) -> None:
    console = Console(stderr=True)
    columns = (TextColumn("sent"), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total)
        sender = Sender(servers, sent_one=lambda: progress.advance(task))
        try:
            sender.send_all(records, per_second=per_second)
        finally:
            sender.close()
    topics = dict(sorted(sender.acknowledged.items()))
    if as_json:
        typer.echo(json.dumps({"acknowledged": sum(topics.values()), "topics": topics}))
    else:
        where = ", ".join(f"{number} to {topic}" for topic, number in topics.items())
        typer.echo(f"{sum(topics.values())} events acknowledged" + (f": {where}" if where else ""))


def _made(
    kind: str, topic: str | None, count: int, seed: int, keys: int, known_topics: frozenset[str]
) -> Iterator[Outgoing]:
    for record in generate(kind, count=count, seed=seed, keys=keys):
        chosen = topic or record.topic
        if chosen not in known_topics:
            raise TopicUnknown(chosen, known_topics)
        value = None if record.value is None else json.dumps(record.value).encode()
        yield Outgoing(chosen, record.key.encode(), value, [])


def _opened(file: str) -> BinaryIO:
    if file == "-":
        return sys.stdin.buffer
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise SendRefused(f"{file} cannot be read: {error.strerror}") from error


def _read_topics(servers: str) -> frozenset[str]:
    admin = KafkaAdminClient(bootstrap_servers=servers.split(","), bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS)
    try:
        return frozenset(name for name in admin.list_topics() if not name.startswith("__"))
    finally:
        admin.close()
