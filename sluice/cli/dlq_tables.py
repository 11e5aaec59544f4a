"""What the commands of `sluice dlq` print: counts, rows, what became of entities. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from sluice.admin.letters import place_of
from sluice.admin.redrive import EntityRedriven
from sluice.cli.printing import say_age, table_of
from sluice.db.admin.letters import LetterCount, ListedLetter
from sluice.db.admin.whole_letters import WholeLetter


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
