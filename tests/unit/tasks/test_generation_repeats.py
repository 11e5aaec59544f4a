"""How a new generation judges a repeated event, which the live generation applied from an earlier record.

HELD: the generation contains the event. GONE: the log in Kafka no longer has the earlier record. AHEAD: the
generation has not reached the earlier record yet.
"""

from uuid import UUID

import pytest

from sluice.db.projections.generation_lanes import FOLDED, UNKNOWN
from sluice.db.projections.generation_records import Found, Known
from sluice.db.projections.generations import SyncedGeneration
from sluice.db.records import GenerationState, Outcome
from sluice.kafka_io.record_types import Record
from sluice.tasks.api import Entity, Topic
from sluice.tasks.apply.generation_repeats import Holding, judge_holding
from sluice.tasks.events.decode import decode
from sluice.tasks.fold.fold_state import FirstSeen
from sluice.tasks.rebuild.rebuild_lane import REPEATED, judge_record

VALUE = b'{"event_id": "e", "type": "thing.set", "data": {}}'
REPEAT = decode(Topic("things", Entity("thing")), "id", 0, Record(50, 0, b"k", VALUE, []))
OTHER = UUID(int=7)
HELD, GONE, AHEAD = Holding.HELD, Holding.GONE, Holding.AHEAD


def first(topic_id: str = "id", partition: int = 0, offset: int = 20) -> FirstSeen:
    return FirstSeen(REPEAT.data_hash, topic_id, partition, offset)


def generation(*, has_been_live: bool = False, from_checkpoint: bool = False) -> SyncedGeneration:
    return SyncedGeneration(
        "p", 2, GenerationState.BUILDING, 1, has_been_live=has_been_live, from_checkpoint=from_checkpoint
    )


@pytest.mark.parametrize(
    ("where", "found", "made", "applied", "holding"),
    [
        (first(), Found(False, True), generation(), 49, HELD),
        (first(), Found(False, False), generation(), 49, GONE),
        (first(), Found(True, False), generation(), 49, HELD),
        # No rebuild has read the offset: the live generation's transaction wrote the event, or a checkpoint
        # contained it.
        (first(), Found(False, None), generation(), 49, HELD),
        (first(offset=49), Found(False, None), generation(), 49, HELD),
        (first(offset=60), Found(False, None), generation(), 49, AHEAD),
        (first(offset=60), Found(True, None), generation(), 49, HELD),
        (first(partition=1), Found(False, None), generation(), -1, AHEAD),
        (first("old"), Found(False, None), generation(), 49, GONE),
        # The offset belongs to the deleted topic; another record has this offset in the current topic.
        (first("old"), Found(False, True), generation(), 49, GONE),
        (first("old"), Found(True, None), generation(), 49, HELD),
        (first("old"), Found(False, None), generation(from_checkpoint=True), 49, HELD),
        (first("old"), Found(False, None), generation(has_been_live=True), 49, HELD),
    ],
)
def test_the_first_record_of_a_repeated_event_decides_if_the_generation_contains_it(
    where: FirstSeen, found: Found, made: SyncedGeneration, applied: int, holding: Holding
) -> None:
    assert judge_holding(where, REPEAT, found, made, applied) is holding


def known(
    *, outcome: Outcome = Outcome.APPLIED, offset: int = 50, other: bool = False, is_noted: bool = False
) -> Known:
    return Known(OTHER if other else REPEAT.data_hash, outcome, "id", 0, offset, is_noted)


@pytest.mark.parametrize(
    ("remembered", "becomes"),
    [
        (None, UNKNOWN),
        (known(), FOLDED),
        (known(outcome=Outcome.STALE), FOLDED),
        (known(outcome=Outcome.DEAD), Outcome.DEAD),
        (known(outcome=Outcome.WAITING), Outcome.WAITING),
        (known(outcome=Outcome.CONFLICT), Outcome.CONFLICT),
        (known(is_noted=True), Outcome.DUPLICATE),
        (known(outcome=Outcome.DEAD, is_noted=True), Outcome.DEAD),
        (known(offset=20), REPEATED),
        (known(offset=20, is_noted=True), Outcome.DUPLICATE),
        (known(offset=20, other=True), Outcome.CONFLICT),
        (known(offset=20, outcome=Outcome.DEAD), Outcome.DUPLICATE),
        (known(offset=20, outcome=Outcome.WAITING), Outcome.DUPLICATE),
    ],
)
def test_a_record_is_judged_by_its_outcome_in_the_live_generation(
    remembered: Known | None, becomes: str
) -> None:
    assert judge_record(REPEAT, remembered) == becomes
