"""The lines that `sluice send` reads and `sluice dlq export` writes: one JSON object per record. Pure."""

import base64
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any, NamedTuple

import msgspec

from sluice.admin.documents import as_json
from sluice.db.admin.letter_details import WholeLetter
from sluice.runtime.terminal_text import counted

_SHAPE = "a line has topic, key, value and headers; the event belongs in value"
UNCHECKED = "to send the event anyway, pass --no-check; the event then becomes a dead letter"


class SendRefused(ValueError):
    """An event cannot be sent; the message has the reason and the alternatives."""


class LineRefused(SendRefused):
    """A line is not a record. The message has the line number, the reason, and the number of
    records of earlier lines that Kafka has acknowledged.
    """

    def __init__(self, number: int, reason: str, *, acknowledged: int = 0) -> None:
        self.number = number
        self.reason = reason
        before = (
            f"Kafka has acknowledged {counted(acknowledged, 'record')} of earlier lines"
            if acknowledged
            else "no record was sent"
        )
        super().__init__(f"line {number}: {reason}; {before}")


class TopicUnknown(SendRefused):
    """The topic does not exist in Kafka."""

    def __init__(self, topic: str, known_topics: Set[str]) -> None:
        there = ", ".join(sorted(known_topics)) or "none at all"
        super().__init__(
            f"Kafka has no topic {topic}; it has: {there}. To create the topics of SLUICE_HANDLERS, run"
            " `sluice init`"
        )


class Outgoing(NamedTuple):
    """A record for Kafka. A value of None is a tombstone."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    key: str | None
    # Not decoded: the value is sent byte for byte. Decoding would change the number 1.10 to 1.1, and drop
    # repeated names.
    value: msgspec.Raw
    headers: dict[str, str] = {}
    topic: str | None = None


_decoder = msgspec.json.Decoder(_Line)


def parse_lines(
    lines: Iterable[bytes],
    *,
    topic: str | None,
    known_topics: Set[str],
    find_flaw: Callable[[Outgoing], str | None] = lambda _: None,
) -> Iterator[Outgoing]:
    """Yields the records of all lines that are not blank. Raises LineRefused at the first bad line.

    `topic` is for lines that name no topic. `find_flaw` returns why a record must not be sent.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            record = _parse(number, line, topic, known_topics)
            flaw = find_flaw(record)
            if flaw is not None:
                raise LineRefused(number, f"{flaw}; {UNCHECKED}")
            yield record


def _parse(number: int, line: bytes, topic: str | None, known_topics: Set[str]) -> Outgoing:
    try:
        read = _decoder.decode(line)
    except msgspec.ValidationError as error:
        raise LineRefused(number, f"{error}; {_SHAPE}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LineRefused(number, str(error)) from error
    chosen = read.topic or topic
    if chosen is None:
        raise LineRefused(number, "the line has no `topic`; add a topic, or pass --topic")
    if chosen not in known_topics:
        raise LineRefused(number, str(TopicUnknown(chosen, known_topics)))
    text = bytes(read.value).strip()
    value = None if text == b"null" else text
    if read.key is None and value is None:
        raise LineRefused(number, "a tombstone needs a `key`")
    key = None if read.key is None else read.key.encode()
    return Outgoing(chosen, key, value, [(name, text.encode()) for name, text in read.headers.items()])


def letter_line(letter: WholeLetter) -> str:
    """Returns one line of JSON, without the line end.

    A record that does not fit the format of `sluice send` is {"topic", "key_base64", "value_base64",
    "headers_base64"}, with null for absent parts. `sluice send` refuses such a line, because it could
    not send exactly the same record. A record that is not stored whole also has "flaw", and no value if the
    value is not stored.
    """
    key, value = (None if part is None else bytes(part) for part in (letter.key, letter.value))
    headers = [(name, None if hexed is None else bytes.fromhex(hexed)) for name, hexed in letter.headers]
    sendable = None if letter.flaw else _sendable(key, value, headers)
    if sendable is not None:
        return as_json({"topic": letter.topic} | sendable)
    return as_json(
        {
            "topic": letter.topic,
            "key_base64": _base64(key),
            **({} if letter.is_cut else {"value_base64": _base64(value)}),
            "headers_base64": [(name, _base64(part)) for name, part in headers],
            **({"flaw": letter.flaw} if letter.flaw else {}),
        }
    )


def _sendable(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> dict[str, Any] | None:
    try:
        texts = {name: (part or b"").decode() for name, part in headers}
        key_text = None if key is None else key.decode()
        raw = None if value is None else _one_line(value)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    # A line can have each header only once and with a value. A null value in a line is a
    # tombstone, which needs a key.
    if len(texts) < len(headers) or any(part is None for _, part in headers):
        return None
    if raw == b"null" or (key is None and raw is None):
        return None
    return {"key": key_text, "value": None if raw is None else msgspec.Raw(raw), "headers": texts}


def _one_line(value: bytes) -> bytes:
    """Returns the same JSON in one line. Raises msgspec's error if the value is not JSON."""
    msgspec.json.decode(value)
    # JSON strings contain no line ends; elsewhere a space is equivalent.
    return value.strip().replace(b"\r", b" ").replace(b"\n", b" ")


def _base64(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()
