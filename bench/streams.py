"""The streams of events that the contenders drain. Pure."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from bench.events import NOTE_CHARACTERS, BenchEvent, generate_events, mixed_kinds

ENVELOPE_BYTES = 175  # the size of a value without its note


@dataclass(frozen=True)
class Stream:
    """A stream of events, and the state of the database before it."""

    name: str
    note_characters: int = NOTE_CHARACTERS
    writes: int = 1
    """The number of rows that each event writes."""
    is_mixed: bool = False
    identities_before: int = 0
    """The number of identities of other events that are stored before."""
    one_in: int = 1
    """A drain uses one in this many of the bench's events."""

    def events(self, count: int, *, seed: int, with_poison: bool = True) -> Iterator[BenchEvent]:
        """Yields `count` events. Without poison events, yields the same events except these."""
        kinds = mixed_kinds(random.Random(seed)) if self.is_mixed else None
        made = generate_events(
            count, seed=seed, note_characters=self.note_characters, writes=self.writes, kinds=kinds
        )
        return made if with_poison else (event for event in made if not event.kind.is_poison)


ALL_NEW = Stream("all new")
MIXED = Stream("mixed", is_mixed=True)
WRITES = tuple(Stream(f"{count} writes per event", writes=count) for count in (1, 3, 10))


def stream_of_size(kilobytes: int) -> Stream:
    """Returns a stream of events whose values have this size. All sizes have about the same total."""
    size = kilobytes * 1_000
    return Stream(f"{kilobytes} kB", note_characters=size - ENVELOPE_BYTES, one_in=kilobytes)


SIZES = tuple(stream_of_size(kilobytes) for kilobytes in (1, 10, 100))


def stream_after(identities: int) -> Stream:
    """Returns a stream of new events for a database that holds this number of identities."""
    return Stream(f"{identities:,} identities before", identities_before=identities)
