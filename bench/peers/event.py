"""The event of the bench for a peer: plain JSON with the default field names of a topic."""

from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

import msgspec

from bench.peers.schema import REJECTED_AMOUNT_CENTS


class Payload(msgspec.Struct, frozen=True):
    """The data of an event."""

    amount_cents: int
    note: str


class Envelope(msgspec.Struct, frozen=True):
    """The value of a record."""

    event_id: str
    version: int
    data: Payload


class PeerEvent(NamedTuple):
    """One decoded record and its position."""

    identity: str
    emitted_id: str
    event_id: str
    key: str
    version: int
    amount_cents: int
    note: str
    topic: str
    partition: int
    offset: int


_decode = msgspec.json.Decoder(Envelope).decode


def decode_event(topic: str, partition: int, offset: int, key: bytes, value: bytes) -> PeerEvent:
    """Decodes a record and checks it as the handler of Sluice does.

    Raises msgspec.DecodeError or ValueError, because the peers have no dead letters.
    """
    envelope = _decode(value)
    if envelope.data.amount_cents == REJECTED_AMOUNT_CENTS:
        raise ValueError(f"the amount of event {envelope.event_id} is refused")
    digest = blake2b(b"\0".join((topic.encode(), key, envelope.event_id.encode())), digest_size=16).digest()
    emitted = blake2b(digest, digest_size=16).digest()
    return PeerEvent(
        str(UUID(bytes=digest)),
        str(UUID(bytes=emitted)),
        envelope.event_id,
        key.decode(),
        envelope.version,
        envelope.data.amount_cents,
        envelope.data.note,
        topic,
        partition,
        offset,
    )
