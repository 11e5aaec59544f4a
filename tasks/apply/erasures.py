"""Finds records of erased entities. Every process that reads such a record again passes over it."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from uuid import UUID

from sluice.db.apply import erasures as stored
from sluice.db.connection import Reconnects, Session
from sluice.tasks.apply.entity_tables import EntityTables
from sluice.tasks.events.decode import Decoded
from sluice.tasks.fold.fold_state import RecordPlace

ERASED_CALL = "erased:"


@dataclass(frozen=True, slots=True)
class Erasure:
    """One erasure of one entity: the time, and where the logs of the entity's topics ended at that time."""

    log_ends: Mapping[str, Mapping[int, int]]
    """Topic id → partition → the first offset that is not erased. A missing partition was empty."""
    erased_at: datetime

    def covers(self, topic_id: str, partition: int, offset: int, milliseconds: float) -> bool:
        """Returns True for a record of the entity that was written before the erasure. Pure.

        `milliseconds` is the time of the record, or the time at which its event was applied. This time
        decides for a topic whose log the erasure did not measure: the topic was deleted before, was created
        later, or holds records that were moved from another topic.
        """
        ends = self.log_ends.get(topic_id)
        if ends is None:
            return milliseconds <= self.erased_at.timestamp() * 1000
        return offset < ends.get(partition, 0)


def hash_key(erasure_key: bytes, entity: str, key: str) -> UUID:
    """Returns the hash that replaces an erased entity's key. Only the erasure key can link hash and key."""
    hasher = _begin_hash(erasure_key, entity)
    hasher.update(key.encode())
    return UUID(bytes=hasher.digest())


def _begin_hash(erasure_key: bytes, entity: str) -> blake2b:
    name = entity.encode()
    return blake2b(len(name).to_bytes(2) + name, digest_size=16, key=erasure_key, person=b"entity")


def erased_effect_key(erasure_key: bytes, effect_key: str) -> str:
    """Returns the text that replaces the key of an erased call, so that the call is not made again."""
    text = blake2b(effect_key.encode(), digest_size=16, key=erasure_key, person=b"call").hexdigest()
    return f"{ERASED_CALL}{text}"


class Erasures:
    """The erased entities, kept in memory as hashes. A lookup costs nothing while no entity is erased.

    An erasure is committed under the lock of its entity's queue, so a batch that reads the newest id under
    the same lock finds the erasure.
    """

    def __init__(self, session: Session) -> None:
        self.tables = EntityTables(session)
        self._session = session
        self._reconnects = Reconnects(session)
        self._key = b""
        self._newest = 0
        self._hashes: defaultdict[str, set[bytes]] = defaultdict(set)

    def refresh(self, newest: int | None = None) -> None:
        """Reads new erasures. `newest` is the id of the newest erasure, if the caller has read it."""
        if self._reconnects.note():
            # A promoted standby may lack the newest erasures, and give their ids to other erasures.
            self._newest = 0
            self._hashes.clear()
        if newest is None:
            newest = stored.read_newest_erasure(self._session)
        if newest == self._newest:
            return
        self._key = stored.read_erasure_key(self._session) or b""
        while page := stored.read_erased_hashes(self._session, self._newest):
            for number, entity, key_hash in page:
                self._newest = number
                self._hashes[entity].add(key_hash.bytes)

    def may_have(self, entity: str) -> bool:
        """Returns True if entities of this type were erased."""
        return bool(self._hashes) and entity in self._hashes

    def find(self, entity: str, known: Sequence[tuple[Decoded, RecordPlace | None]]) -> set[RecordPlace]:
        """Returns the places of the erased records. All given records are of one entity type.

        Each record comes with the place where its identity was first seen; None for a new record. A record
        is erased if an erasure covers either place.
        """
        found = self._load(entity, [one for one, _ in known])
        if not found:
            return set()
        mine = [(one, first, found[one.entity_key]) for one, first in known if one.entity_key in found]
        places = {
            place_of(one)
            for one, _, erasures in mine
            if any(erasure.covers(*place_of(one), one.record.timestamp_ms) for erasure in erasures)
        }
        repeats = [
            (one, first, erasures)
            for one, first, erasures in mine
            if first is not None and place_of(one) not in places
        ]
        if repeats:
            times = stored.read_processed_times(self._session, [one.identity for one, *_ in repeats])
            for one, first, erasures in repeats:
                at = times.get(one.identity)
                seen = math.inf if at is None else at.timestamp() * 1000
                if any(erasure.covers(*first, seen) for erasure in erasures):
                    places.add(place_of(one))
        return places

    def erased_keys(self, entity: str, keys: Iterable[str]) -> dict[str, UUID]:
        """Returns those of the keys whose entities were erased, with their hashes."""
        hashes = self._hashes.get(entity)
        if not hashes:
            return {}
        begun = _begin_hash(self._key, entity)
        erased: dict[str, UUID] = {}
        for key in keys:
            hasher = begun.copy()
            hasher.update(key.encode())
            if (digest := hasher.digest()) in hashes:
                erased[key] = UUID(bytes=digest)
        return erased

    def stand_ins(self, effect_keys: Iterable[str]) -> dict[str, str]:
        """Returns a map: the key that replaces an effect key after an erasure → the effect key."""
        if not self._newest:
            return {}
        return {erased_effect_key(self._key, one): one for one in effect_keys}

    def _load(self, entity: str, decoded: Iterable[Decoded]) -> dict[str | None, list[Erasure]]:
        """Returns entity key → erasures, for the records whose entities were erased."""
        found: defaultdict[str | None, list[Erasure]] = defaultdict(list)
        keys = {one.entity_key for one in decoded if one.entity_key is not None}
        erased = {digest: key for key, digest in self.erased_keys(entity, keys).items()}
        for row in stored.read_erasures(self._session, entity, sorted(erased)) if erased else ():
            found[erased[row.key_hash]].append(make_erasure(row))
        return found


def make_erasure(row: stored.StoredErasure) -> Erasure:
    """Returns the erasure of a stored row."""
    ends = {
        topic_id: {int(number): end for number, end in partitions.items()}
        for topic_id, partitions in row.log_ends.items()
    }
    return Erasure(ends, row.erased_at)


def place_of(decoded: Decoded) -> RecordPlace:
    """Returns the place of a record."""
    return decoded.topic_id, decoded.partition, decoded.record.offset
