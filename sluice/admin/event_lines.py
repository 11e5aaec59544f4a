"""The lines that `sluice send` reads: one JSON object is one record to produce. Pure."""

from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

import msgspec


class SendRefused(ValueError):
    """What was to be sent cannot be; one sentence says why and what there is instead."""


class LineRefused(SendRefused):
    """A line that is no record; the message says which, why, and how many before it were produced."""

    def __init__(self, number: int, reason: str, *, acknowledged: int = 0) -> None:
        self.number = number
        self.reason = reason
        before = f"{acknowledged} before it were acknowledged" if acknowledged else "nothing was produced"
        super().__init__(f"line {number}: {reason}; {before}")


class TopicUnknown(SendRefused):
    """Kafka lacks a topic."""

    def __init__(self, topic: str, known_topics: Set[str]) -> None:
        there = ", ".join(sorted(known_topics)) or "none at all"
        super().__init__(
            f"Kafka has no topic {topic}; there are: {there}. `sluice init` makes those of SLUICE_HANDLERS"
        )


class Outgoing(NamedTuple):
    """A record as Kafka takes it; a value of None is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    key: str | None
    # Never decoded: what the line holds is sent byte for byte, also `1.10` and a doubled name.
    value: msgspec.Raw
    headers: dict[str, str] = {}
    topic: str | None = None


_decoder = msgspec.json.Decoder(_Line)


def parse_lines(lines: Iterable[bytes], *, topic: str | None, known_topics: Set[str]) -> Iterator[Outgoing]:
    """The records of all lines that are not blank. Raises LineRefused at the first bad one.

    `topic` is that of lines which name none.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _parse(number, line, topic, known_topics)


def _parse(number: int, line: bytes, topic: str | None, known_topics: Set[str]) -> Outgoing:
    try:
        read = _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LineRefused(number, str(error)) from error
    chosen = read.topic or topic
    if chosen is None:
        raise LineRefused(number, "it names no `topic`, and there is no --topic")
    if chosen not in known_topics:
        raise LineRefused(number, str(TopicUnknown(chosen, known_topics)))
    text = bytes(read.value).strip()
    value = None if text == b"null" else text
    if read.key is None and value is None:
        raise LineRefused(number, "a tombstone needs a `key`")
    key = None if read.key is None else read.key.encode()
    return Outgoing(chosen, key, value, [(name, text.encode()) for name, text in read.headers.items()])
