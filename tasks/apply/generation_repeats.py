"""Decides if a generation holds an event that the live generation applied from another record."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum

from sluice.db.admin.audit import read_audits
from sluice.db.connection import Session
from sluice.db.projections.generation_records import Found, find_events
from sluice.db.projections.generations import SyncedGeneration
from sluice.db.records import GenerationState, Outcome
from sluice.runtime.place import Place
from sluice.tasks.events.decode import Decoded
from sluice.tasks.fold.fold_state import EventResult, FirstSeen

MOST_ACCEPTS = 1_000  # entries of `accept` in the audit log that are read per topic


class Holding(Enum):
    """The relation of a generation to the first record of a repeated event."""

    HELD = "held"
    """The generation holds the event."""
    GONE = "gone"
    """The log no longer has the record from which the live generation applied the event."""
    AHEAD = "ahead"
    """The generation has not reached that record yet."""


def judge_holding(
    first: FirstSeen, repeat: Decoded, found: Found, generation: SyncedGeneration, applied: int
) -> Holding:
    """Judges a repeated event. Pure.

    `first` is the record from which the live generation applied the event. `applied` is the offset that
    the generation has reached in the lane of that record.
    """
    if found.is_noted:
        return Holding.HELD
    if first.topic_id != repeat.topic_id:
        # The event was applied before an operator accepted the topic. Accepting ends all copies, so an
        # existing copy was made later and holds the event.
        return Holding.HELD if generation.is_copy else Holding.GONE
    if first.offset > applied:
        return Holding.AHEAD
    return Holding.GONE if found.was_there is False else Holding.HELD


def is_displaced(session: Session, topic: str) -> bool:
    """Returns True if the topic was accepted with the same id. Its offsets may then hold other records."""
    accepts = read_audits(session, verb="accept", subject=topic, limit=MOST_ACCEPTS)
    told = [one.details or {} for one in accepts]
    return any(one.get("topic_id") == one.get("topic_id_before") for one in told)


def find_holdings(
    session: Session,
    generation: SyncedGeneration,
    queue: str,
    repeats: Sequence[tuple[Decoded, FirstSeen]],
    applied: Callable[[Place], int],
) -> list[Holding]:
    """Judges repeats of one queue. Sends one statement."""
    events = [(one.identity, one.topic, first.partition, first.offset) for one, first in repeats]
    found = find_events(session, generation.projection, generation.generation, queue, events)
    return [
        judge_holding(first, one, found[one.identity], generation, applied((one.topic, first.partition)))
        for one, first in repeats
    ]


def lagging_places(
    session: Session,
    generation: SyncedGeneration,
    queue: str,
    applied: Mapping[Place, int],
    settled: Iterable[EventResult],
) -> frozenset[Place]:
    """Returns the lanes with a repeat of an event that the generation may lack.

    The worker passes over the repeat. The generation must not: its lane lags until the rebuild has read the
    log and decided. The interleaving: A topic is created again and accepted. A generation catches up at the
    first record of the new topic. The worker passes over the other records, because it applied their events
    from the old topic.
    """
    if generation.state == GenerationState.RETIRED:
        return frozenset()  # a retired generation holds all events up to its swap
    doubtful = [
        (one.planned.decoded, one.first)
        for one in settled
        if one.first is not None
        and one.outcome is not Outcome.CONFLICT
        # The rebuild judges such a record by its letter.
        and one.planned.decoded.stores_identity
        and not _is_of_this_batch(one, applied)
    ]
    if not doubtful:
        return frozenset()
    holdings = find_holdings(session, generation, queue, doubtful, lambda place: applied.get(place, -1))
    return frozenset(
        (one.topic, one.partition)
        for (one, _), holding in zip(doubtful, holdings, strict=True)
        if holding is not Holding.HELD
    )


def _is_of_this_batch(one: EventResult, applied: Mapping[Place, int]) -> bool:
    """Returns True if the event was first seen in this same batch, which the generation receives too."""
    decoded, first = one.planned.decoded, one.first
    assert first is not None
    same_lane = (first.topic_id, first.partition) == (decoded.topic_id, decoded.partition)
    before = applied.get((decoded.topic, decoded.partition), -1)
    return same_lane and before < first.offset < decoded.record.offset
