"""The bench's events from a seed, and the expected result in Postgres. Pure."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.app import EVENT_TYPE

KEYS = 10_000
NOTE_CHARACTERS = 255  # makes a value of about 430 bytes
SMALL_NOTE_CHARACTERS = 8
POISON_AMOUNT_CENTS = -1
POISON_KEY = "poison"  # the account of the poison event; no other event is for this account
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


class BenchEvent(NamedTuple):
    """One record to produce. `number` is its index in the run and starts at 0."""

    number: int
    event_id: str
    key: str
    value: bytes

    @property
    def version(self) -> int:
        """Returns a version that rises over the whole run, so that every event is applied."""
        return self.number + 1


def generate_events(
    count: int,
    *,
    seed: int,
    note_characters: int = NOTE_CHARACTERS,
    poison_at: int | None = None,
    first: int = 0,
) -> Iterator[BenchEvent]:
    """Yields `count` events over KEYS accounts; the same arguments give the same bytes.

    Their numbers begin at `first`. Postgres refuses the event at `poison_at`.
    """
    rng = random.Random(seed)
    text = "".join(rng.choices(_LETTERS, k=64 * 1024))
    for number in range(first, first + count):
        digits = f"{rng.getrandbits(128):032x}"
        event_id = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        key, amount = f"account-{rng.randrange(KEYS):05d}", rng.randrange(10_000_000)
        if number == poison_at:
            key, amount = POISON_KEY, POISON_AMOUNT_CENTS
        start = rng.randrange(len(text) - note_characters)
        note = text[start : start + note_characters]
        # Formatted without json.dumps, which takes as long as the rest of this function.
        value = (
            f'{{"event_id":"{event_id}","type":"{EVENT_TYPE}","version":{number + 1},'
            f'"occurred_at":"2026-01-01T00:{number // 60_000 % 60:02d}:{number // 1_000 % 60:02d}'
            f'.{number % 1_000:03d}Z","data":{{"amount_cents":{amount},"note":"{note}"}}}}'
        )
        yield BenchEvent(number, event_id, key, value.encode())


@dataclass
class Expected:
    """The expected result of the events that passed."""

    events: int = 0
    versions: dict[str, int] = field(default_factory=dict)
    """Key → version of its newest event."""

    def watch(self, events: Iterable[BenchEvent]) -> Iterator[BenchEvent]:
        """Yields the same events, and counts them."""
        for event in events:
            self.events += 1
            self.versions[event.key] = event.version
            yield event
