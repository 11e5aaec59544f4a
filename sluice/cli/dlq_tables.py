"""Dead letters for people and as JSON: counts, rows, one whole, what became of entities. Pure."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from rich.table import Table

from sluice.admin.redrive import EntityRedriven
from sluice.cli.ages import say_age
from sluice.cli.printing import table_of
from sluice.db.admin.letters import LetterCount, ListedLetter
from sluice.db.admin.whole_letters import WaitingLetter, WholeLetter


def place_of(letter: ListedLetter | WholeLetter | WaitingLetter) -> str:
    """Where Kafka has it: topic:partition:offset."""
    return f"{letter.topic}:{letter.partition}:{letter.offset}"


def entity_of(letter: ListedLetter | WholeLetter) -> str:
    """Whose it is: type/key, or the type alone where the record names no entity."""
    return letter.entity if letter.entity_key is None else f"{letter.entity}/{letter.entity_key}"


def state_of(letter: ListedLetter | LetterCount | WholeLetter) -> str:
    """Its state; of a conflict, that it is one."""
    return f"{letter.state} (conflict)" if letter.outcome == "conflict" else letter.state


def count_table(counts: Iterable[LetterCount]) -> Table:
    """Per topic, error class and state."""
    return table_of(
        ("topic", "error", "state", "letters"),
        ((one.topic, one.error_class, state_of(one), one.letters) for one in counts),
    )


def letter_table(letters: Iterable[ListedLetter]) -> Table:
    """Per letter: where it is, whose, what went wrong, and how many wait behind it."""
    return table_of(
        ("id", "record", "entity", "type", "state", "attempts", "age", "behind", "error"),
        (
            (
                one.id,
                place_of(one),
                entity_of(one),
                one.type,
                state_of(one),
                one.attempts,
                say_age(one.age_seconds),
                one.behind,
                f"{one.error_class}: {one.error_text}",
            )
            for one in letters
        ),
    )


def letter_document(letter: WholeLetter, behind: int, first: Sequence[WaitingLetter]) -> dict[str, Any]:
    """A letter whole, with how many wait behind it and the first of those.

    Bytes are JSON or text where they are, else base64 under a name that says so.
    """
    document = letter._asdict()
    for name in ("headers", "key", "value"):
        del document[name]
    document["behind"] = behind
    document["behind_first"] = [{"id": one.id, "record": place_of(one), "type": one.type} for one in first]
    document["headers"] = [_text(name, _unhex(value)) for name, value in letter.headers]
    document |= {} if letter.key is None else _text("key", bytes(letter.key))
    return document | _value(letter.value)


def redriven_lines(done: Iterable[EntityRedriven]) -> list[str]:
    """What became of each entity."""
    return [
        f"{one.name}: "
        + (", ".join(f"{number} {outcome}" for outcome, number in sorted(one.outcomes.items())) or "nothing")
        + (f"; blocked by {one.blocked_by}" if one.blocked_by else "")
        + ("; unparked" if one.unparked else "")
        for one in done
    ]


def redriven_documents(done: Iterable[EntityRedriven]) -> list[Mapping[str, Any]]:
    """The same for --json."""
    return [
        {
            "entity": one.entity,
            "key": one.key,
            "id": one.letter_id,
            "outcomes": dict(one.outcomes),
            "blocked_by": one.blocked_by,
            "unparked": one.unparked,
        }
        for one in done
    ]


def _value(value: memoryview | None) -> dict[str, Any]:
    if value is None:
        return {"value": None}
    raw = bytes(value)
    try:
        return {"value": msgspec.json.decode(raw)}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {"value_base64": base64.b64encode(raw).decode()}


def _text(name: str, value: bytes | None) -> dict[str, Any]:
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def _unhex(value: str | None) -> bytes | None:
    return None if value is None else bytes.fromhex(value)
