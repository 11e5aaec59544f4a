"""Finds the dead letters that an operator names, and returns a letter as a JSON object."""

from collections.abc import Iterator, Sequence
from typing import Any

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import payload_field
from sluice.db.admin.letter_details import (
    WaitingLetter,
    WholeLetter,
    WholeProjectionLetter,
    count_behind,
    lacks_value,
    read_behind,
    read_whole_letters,
)
from sluice.db.admin.letters import Chosen, ListedLetter
from sluice.db.connection import Session
from sluice.runtime.terminal_text import text_or_base64

MOST_BEHIND = 10  # a document lists at most this many of the letters that wait behind its letter
PAGE_LETTERS = 20  # letters per page; each may have the maximum size of a record


def require_letter(session: Session, letter_id: int) -> WholeLetter:
    """Returns the letter with all fields. Raises OperationRefused if it does not exist."""
    found = read_whole_letters(session, Chosen(ids=(letter_id,)), after=0, limit=1)
    if not found:
        raise OperationRefused(f"there is no dead letter {letter_id}")
    return found[0]


def choose_letters(ids: Sequence[int] | None, every: bool, filters: Chosen) -> Chosen:
    """Returns the choice of letters: by ids, or by filters with --all. Raises OperationRefused."""
    if bool(ids) == every or (ids and any(value is not None for value in filters)):
        raise OperationRefused("pass the IDs of letters, or --all, optionally with filters")
    return filters._replace(ids=tuple(ids)) if ids else filters


def read_all_letters(session: Session, chosen: Chosen) -> Iterator[WholeLetter]:
    """Yields all chosen letters, oldest first, with one page in memory.

    Each page continues after the last id of the page before. Ids never change, so no letter is
    yielded twice.
    """
    after = 0
    while page := read_whole_letters(session, chosen, after=after, limit=PAGE_LETTERS):
        yield from page
        after = page[-1].id


def place_of(letter: ListedLetter | WholeLetter | WaitingLetter) -> str:
    """Returns the position of the record in Kafka: topic:partition:offset."""
    return f"{letter.topic}:{letter.partition}:{letter.offset}"


def entity_of(letter: ListedLetter | WholeLetter) -> str:
    """Returns the entity: type/key, or only the type if the record names no entity."""
    return letter.entity if letter.entity_key is None else f"{letter.entity}/{letter.entity_key}"


def read_letter_document(session: Session, letter: WholeLetter) -> dict[str, Any]:
    """Returns the letter as a JSON object, with the number of letters behind it and the first of them."""
    behind = count_behind(session, letter)
    return letter_document(letter, behind, read_behind(session, letter, limit=MOST_BEHIND))


def letter_document(letter: WholeLetter, behind: int, first: Sequence[WaitingLetter]) -> dict[str, Any]:
    """Returns a letter with all fields, the number of letters behind it, and the first of these letters.

    The value is in `value` if it is JSON, else in `value_text` if it is text, else in
    `value_base64`. If a key or a header is not text, the name of its field ends in `_base64`. A
    value that is not stored is left out, and `flaw` has the reason: the size and the SHA-256 of a
    large value, or `skipped`, or `erased`.
    """
    document = letter._asdict()
    for name in ("headers", "key", "value"):
        del document[name]
    document = _without_absent(document)
    document["behind"] = behind
    document["behind_first"] = [{"id": one.id, "record": place_of(one), "type": one.type} for one in first]
    return document | _record_fields(letter.headers, letter.key, None if letter.is_cut else (letter.value,))


def projection_letter_document(letter: WholeProjectionLetter) -> dict[str, Any]:
    """Returns a letter of a projection's generation (docs/rebuilding.md) with all fields.

    The fields of the record are the same as in `letter_document`.
    """
    value = None if lacks_value(letter.columns["flaw"]) else (letter.value,)
    return _without_absent(letter.columns) | _record_fields(letter.headers, letter.key, value)


def _without_absent(document: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in document.items()
        if value is not None or name not in ("flaw", "traceback", "retry")
    }


def _record_fields(
    headers: Sequence[tuple[str, str | None]], key: memoryview | None, value: tuple[memoryview | None] | None
) -> dict[str, Any]:
    """Returns the record of a letter; `value` is None if it is not stored."""
    fields: dict[str, Any] = {
        "headers": [
            {name: None} if of is None else text_or_base64(name, bytes.fromhex(of)) for name, of in headers
        ]
    }
    if key is not None:
        fields |= text_or_base64("key", bytes(key))
    if value is not None:
        fields |= {"value": None} if value[0] is None else payload_field("value", value[0])
    return fields
