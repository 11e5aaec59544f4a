"""Loads the identities of records that are read again, even if `dedup` was changed since."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec

from sluice.db.connection import Session
from sluice.db.projections import generation_records
from sluice.db.projections.generation_records import Known
from sluice.db.projections.generations import SyncedGeneration
from sluice.tasks.api import Topic
from sluice.tasks.events.decode import Decoded, former_identity
from sluice.tasks.rebuild.rebuild_lane import is_own


def load_known(
    session: Session, generation: SyncedGeneration, topics: Mapping[str, Topic], decoded: Sequence[Decoded]
) -> list[tuple[Decoded, Known | None]]:
    """Returns each record with its stored identity.

    If the identity is stored only in the form of the other `dedup`, the record is returned with that
    identity.
    """

    def load(identities: Sequence[UUID]) -> dict[UUID, Known]:
        return generation_records.load_known(
            session, generation.projection, generation.generation, identities
        )

    outcomes = load([one.identity for one in decoded])
    former = {
        one.record.offset: identity
        for one in decoded
        if not is_own(one, outcomes.get(one.identity))
        and (identity := former_identity(topics[one.topic], one)) is not None
    }
    outcomes |= load(list(former.values())) if former else {}
    return [_under_own_identity(one, former.get(one.record.offset), outcomes) for one in decoded]


def _under_own_identity(
    decoded: Decoded, former: UUID | None, outcomes: Mapping[UUID, Known]
) -> tuple[Decoded, Known | None]:
    known = outcomes.get(decoded.identity)
    if former is None or former not in outcomes:
        return decoded, known
    if known is None or is_own(decoded, outcomes[former]):
        return msgspec.structs.replace(decoded, identity=former), outcomes[former]
    return decoded, known
