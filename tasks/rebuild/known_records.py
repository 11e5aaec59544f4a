"""Loads the identities of records that are read again, even if `dedup` was changed since."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec

from sluice.db.apply import dead_letters
from sluice.db.apply.dead_letters import LetterPlace
from sluice.db.connection import Session
from sluice.db.projections import generation_records
from sluice.db.projections.generation_records import Known
from sluice.db.projections.generations import SyncedGeneration
from sluice.db.records import LetterState, Outcome
from sluice.tasks.apply.erasures import place_of
from sluice.tasks.events.decode import Decoded, former_identity
from sluice.tasks.rebuild.rebuild_lane import is_own


def load_known(
    session: Session, generation: SyncedGeneration, decoded: Sequence[Decoded]
) -> list[tuple[Decoded, Known | None]]:
    """Returns each record with its stored identity.

    If the identity is stored only in the form of the other `dedup`, the record is returned with that
    identity. A record without an identity is judged by its letter, if it has one.
    """

    def load(identities: Sequence[UUID]) -> dict[UUID, Known]:
        return generation_records.load_known(
            session, generation.projection, generation.generation, identities
        )

    outcomes = load([one.identity for one in decoded if one.stores_identity])
    outcomes |= _judge_places(session, [one for one in decoded if not one.stores_identity])
    former = {
        one.record.offset: identity
        for one in decoded
        if one.stores_identity
        and not is_own(one, outcomes.get(one.identity))
        and (identity := former_identity(one)) is not None
    }
    outcomes |= load(list(former.values())) if former else {}
    return [_under_own_identity(one, former.get(one.record.offset), outcomes) for one in decoded]


def _judge_places(session: Session, unidentified: Sequence[Decoded]) -> dict[UUID, Known]:
    """Returns the outcomes of records without identities. An open or dropped letter: not applied."""
    letters = dead_letters.load_letter_places(session, {place_of(one) for one in unidentified})
    return {one.identity: _judge_place(one, letters.get(place_of(one))) for one in unidentified}


def _judge_place(one: Decoded, letter: LetterPlace | None) -> Known:
    # An accepted log may have another record at the place of a letter.
    is_own = letter is not None and letter.timestamp_ms == one.record.timestamp_ms
    is_left = is_own and letter is not None and letter.state != LetterState.DONE
    outcome = letter.outcome if letter is not None and is_left else Outcome.APPLIED
    return Known(one.data_hash, outcome, *place_of(one), False)


def _under_own_identity(
    decoded: Decoded, former: UUID | None, outcomes: Mapping[UUID, Known]
) -> tuple[Decoded, Known | None]:
    known = outcomes.get(decoded.identity)
    if former is None or former not in outcomes:
        return decoded, known
    if known is None or is_own(decoded, outcomes[former]):
        return msgspec.structs.replace(decoded, identity=former), outcomes[former]
    return decoded, known
