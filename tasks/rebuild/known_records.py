"""What is remembered of records that are read again, also from before their topic's `dedup` was changed."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from sluice.db.apply.identities import load_outcomes
from sluice.db.connection import Session
from sluice.tasks.api import Topic
from sluice.tasks.events.decode import Decoded, former_identity

Known: TypeAlias = tuple[Any, ...]
"""(data hash, outcome, topic id, partition, offset) of the record that counts under an identity."""


def load_known(
    session: Session, topics: Mapping[str, Topic], decoded: Sequence[Decoded]
) -> list[tuple[Decoded, Known | None]]:
    """Each record with what is remembered of its identity.

    A record that was applied under the identity of another `dedup` is returned with that identity.
    """
    outcomes = load_outcomes(session, [one.identity for one in decoded])
    former = {
        one.record.offset: identity
        for one in decoded
        if not _is_own(one, outcomes.get(one.identity))
        and (identity := former_identity(topics[one.topic], one)) is not None
    }
    outcomes |= load_outcomes(session, list(former.values())) if former else {}
    return [_under_own_identity(one, former.get(one.record.offset), outcomes) for one in decoded]


def _under_own_identity(
    decoded: Decoded, former: UUID | None, outcomes: Mapping[UUID, Known]
) -> tuple[Decoded, Known | None]:
    known = outcomes.get(decoded.identity)
    if former is None or former not in outcomes:
        return decoded, known
    if _is_own(decoded, outcomes[former]):
        return msgspec.structs.replace(decoded, identity=former), outcomes[former]
    return decoded, known or outcomes[former]


def _is_own(decoded: Decoded, known: Known | None) -> bool:
    """Whether what is remembered is of this very record."""
    return known is not None and known[2:] == (decoded.topic_id, decoded.partition, decoded.record.offset)
