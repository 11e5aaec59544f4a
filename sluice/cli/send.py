"""`sluice send`: sends events to Kafka from a file or a pipe."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.progress import MofNCompleteColumn

from sluice.admin.event_lines import Outgoing, SendRefused, parse_lines
from sluice.admin.sender import Sender, read_topics
from sluice.cli.output import say, say_document
from sluice.cli.printing import AsJson
from sluice.cli.progress import progress_bar
from sluice.runtime.service_urls import read_addresses
from sluice.runtime.settings import read_settings


def send(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Lines to send; `-` is the standard input.")],
    topic: Annotated[str | None, typer.Option(help="Topic of lines that name none.")] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Events per second at most.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send events to Kafka and wait until Kafka has acknowledged them.

    Each line of FILE is one JSON object:

    {"key": "u-1", "value": {…}, "headers": {"ce_id": "1"}, "topic": "users"}

    key: a string, or null. value: any JSON; an object is an event,
    null a tombstone. headers (of strings) and topic may be left out.

    A file with a bad line is refused before anything is sent;
    a pipe is sent up to that line.

    Example: sluice send events.jsonl --topic users
    """
    servers = read_addresses(read_settings()).kafka_bootstrap_servers
    known_topics = read_topics(servers)
    with _opened(file) as source:
        total = None
        if source.seekable():
            begin = source.tell()
            # All lines are parsed before the first one is sent.
            total = sum(1 for _ in parse_lines(source, topic=topic, known_topics=known_topics))
            source.seek(begin)
        records = parse_lines(source, topic=topic, known_topics=known_topics)
        _send(servers, records, total=total, per_second=rate, as_json=as_json)


def _send(
    servers: str, records: Iterable[Outgoing], *, total: int | None, per_second: float | None, as_json: bool
) -> None:
    with progress_bar("sent", MofNCompleteColumn()) as progress:
        task = progress.add_task("", total=total)
        sender = Sender(servers, sent_one=lambda: progress.advance(task))
        try:
            sender.send_all(records, per_second=per_second)
        finally:
            sender.close()
    topics = dict(sorted(sender.acknowledged.items()))
    if as_json:
        say_document({"acknowledged": sum(topics.values()), "topics": topics})
    else:
        where = ", ".join(f"{number} to {topic}" for topic, number in topics.items())
        say(f"{sum(topics.values())} events acknowledged" + (f": {where}" if where else ""))


@contextmanager
def _opened(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        source = Path(file).open("rb")  # noqa: SIM115
    except OSError as error:
        raise SendRefused(f"{file} cannot be read: {error.strerror}") from error
    with source:
        yield source
