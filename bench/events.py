"""The bench's events from a seed, and the expected result in Postgres. Pure."""

import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeAlias

from bench.app import EVENT_TYPE
from bench.peers.schema import REJECTED_AMOUNT_CENTS

KEYS = 10_000
NOTE_CHARACTERS = 255  # makes a value of about 430 bytes
SMALL_NOTE_CHARACTERS = 8
POISON_AMOUNT_CENTS = -1  # violates the CHECK of the table
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


class Kind(Enum):
    """The kind of an event. The values are the outcomes that Sluice counts."""

    NEW = "applied"
    STALE = "stale"
    REPEATED = "duplicate"
    REJECTED = "dead by its handler"
    VIOLATING = "dead by a CHECK"

    @property
    def is_poison(self) -> bool:
        """Returns True if the event can never be applied."""
        return self in (Kind.REJECTED, Kind.VIOLATING)


BLOCK = 1_000
STALE_PER_BLOCK, REPEATED_PER_BLOCK = 20, 10  # and one poison event, of which nine in ten are REJECTED
# In every ten blocks, the poison event of this block is VIOLATING. A short stream has such an event, too.
VIOLATING_BLOCK = 4


class BenchEvent(NamedTuple):
    """One record to produce. `number` is its index in the run and starts at 0."""

    number: int
    event_id: str
    key: str
    version: int
    value: bytes
    kind: Kind = Kind.NEW


Encode: TypeAlias = Callable[[BenchEvent], tuple[bytes, bytes]]
"""Returns key and value of the record of an event."""


def plain_record(event: BenchEvent) -> tuple[bytes, bytes]:
    """Returns key and value of the record, as every contender but one reads it."""
    return event.key.encode(), event.value


def all_new() -> Iterator[Kind]:
    """Yields the kinds of a stream of new events, without an end."""
    while True:
        yield Kind.NEW


def mixed_kinds(rng: random.Random) -> Iterator[Kind]:
    """Yields kinds without an end: of each BLOCK, 2 % are stale, 1 % repeated, 0.1 % poison.

    The first event of a block is new, so that there is an event to repeat.
    """
    block = 0
    while True:
        poison = Kind.VIOLATING if block % 10 == VIOLATING_BLOCK else Kind.REJECTED
        special = [Kind.STALE] * STALE_PER_BLOCK + [Kind.REPEATED] * REPEATED_PER_BLOCK + [poison]
        places = dict(zip(rng.sample(range(1, BLOCK), len(special)), special, strict=True))
        for place in range(BLOCK):
            yield places.get(place, Kind.NEW)
        block += 1


def violating_at(place: int) -> Iterator[Kind]:
    """Yields the kinds of new events around one that violates the CHECK, without an end."""
    number = 0
    while True:
        yield Kind.VIOLATING if number == place else Kind.NEW
        number += 1


def generate_events(
    count: int,
    *,
    seed: int,
    note_characters: int = NOTE_CHARACTERS,
    writes: int = 1,
    kinds: Iterable[Kind] | None = None,
    first: int = 0,
    new_keys: bool = False,
) -> Iterator[BenchEvent]:
    """Yields `count` events over KEYS accounts; the same arguments give the same bytes.

    Their numbers begin at `first`. By default all are new. A poison event has a key of its own. If `new_keys`
    is True, each event has one, so that no row changes twice.
    """
    rng = random.Random(seed)
    text = "".join(rng.choices(_LETTERS, k=max(64 * 1024, 2 * note_characters)))
    recent: deque[BenchEvent] = deque(maxlen=BLOCK)
    more = "" if writes == 1 else f'"writes":{writes},'
    for number, kind in zip(range(first, first + count), all_new() if kinds is None else kinds, strict=False):
        if kind is Kind.REPEATED:
            yield rng.choice(recent)._replace(number=number, kind=kind)
            continue
        digits = f"{rng.getrandbits(128):032x}"
        event_id = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        account = number if new_keys else rng.randrange(KEYS)
        key, amount, version = f"account-{account:05d}", rng.randrange(10_000_000), 2 * number + 2
        if kind is Kind.STALE:
            # Versions of new events are even and rise, so this one is below the account's version and
            # equal to none.
            newer = rng.choice(recent)
            key, version = newer.key, newer.version - 1
        elif kind.is_poison:
            key = f"poison-{number}"
            amount = REJECTED_AMOUNT_CENTS if kind is Kind.REJECTED else POISON_AMOUNT_CENTS
        start = rng.randrange(len(text) - note_characters)
        note = text[start : start + note_characters]
        # Formatted without json.dumps, which takes as long as the rest of this function.
        value = (
            f'{{"event_id":"{event_id}","type":"{EVENT_TYPE}","version":{version},'
            f'"occurred_at":"2026-01-01T00:{number // 60_000 % 60:02d}:{number // 1_000 % 60:02d}'
            f'.{number % 1_000:03d}Z","data":{{{more}"amount_cents":{amount},"note":"{note}"}}}}'
        )
        event = BenchEvent(number, event_id, key, version, value.encode(), kind)
        if kind is Kind.NEW:
            recent.append(event)
        yield event


@dataclass
class Expected:
    """The expected result of the events that passed."""

    kinds: Counter[Kind] = field(default_factory=Counter)
    versions: dict[str, int] = field(default_factory=dict)
    """Key → version of its newest event."""

    @property
    def events(self) -> int:
        """Returns the number of events."""
        return self.kinds.total()

    @property
    def applied(self) -> int:
        """Returns the number of events that write a row and an outgoing event."""
        return self.kinds[Kind.NEW]

    @property
    def identities(self) -> int:
        """Returns the number of distinct event ids."""
        return self.events - self.kinds[Kind.REPEATED]

    @property
    def outcomes(self) -> Counter[str]:
        """Returns the number of events per outcome of Sluice."""
        counts: Counter[str] = Counter()
        for kind, count in self.kinds.items():
            counts["dead" if kind.is_poison else kind.value] += count
        return counts

    def watch(self, events: Iterable[BenchEvent]) -> Iterator[BenchEvent]:
        """Yields the same events, and counts them."""
        for event in events:
            self.kinds[event.kind] += 1
            if event.kind is Kind.NEW:
                self.versions[event.key] = event.version
            yield event
