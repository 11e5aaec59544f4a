"""Claims: with them, two physical copies of one database detect each other, and one stops. Pure.

    1.<rank>.<claim>.<writer>.<written at>.<MAC>

A later version may only append fields before the MAC. So every version reads the claims of all other
versions. The MAC covers all fields and the id of the installation.
"""

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from hashlib import blake2b
from typing import NamedTuple
from uuid import UUID

from sluice.db.records import KnownClaims

MAC_BYTES = 16
MAX_LENGTH = 512
"""Maximum length of a claim's text, with room for fields of later versions."""
STALE_SECONDS = 3_600
"""An older claim is ignored, because Postgres keeps its own claims for a limited time."""

PROVEN_SECONDS = 300
"""An older claim from copied files belongs to an ended bridge, because a running bridge renews its claim."""

_DOMAIN = b"sluice claim"
_TEXT = re.compile(
    r"[1-9][0-9]{0,4}\.(?P<rank>[0-9]{1,10})\.(?P<claim>[0-9a-f]{32})\.(?P<writer>[0-9a-f]{32})"
    r"\.(?P<written_at>[0-9]{1,12})(\.[0-9a-z]+)*",
    re.ASCII,
)


class Claim(NamedTuple):
    """One claim. A bridge writes the claim into its Postgres, then into Redis and Kafka."""

    rank: int
    """`sluice init --original` increases the rank."""
    claim: UUID
    writer: UUID
    """The id of the bridge, drawn at random at each start."""
    written_at: int
    """Seconds since 1970, by the clock of the writer's Postgres."""


class Verdict(Enum):
    """The decision of a starting process that watches claims."""

    WATCH = "watch"
    REFUSE = "refuse"
    TAKE_OVER = "take over"


def seal_claim(key: bytes, installation: UUID, claim: Claim) -> str:
    """Returns the claim's text with its MAC."""
    text = f"1.{claim.rank}.{claim.claim.hex}.{claim.writer.hex}.{claim.written_at}"
    return f"{text}.{_mac(key, installation, text)}"


def open_claim(key: bytes, installation: UUID, text: bytes | str) -> Claim | None:
    """Returns the claim, None if this installation did not sign it."""
    if len(text) > MAX_LENGTH:
        return None
    try:
        signed, _, mac = (text if isinstance(text, str) else text.decode("ascii")).rpartition(".")
        if not hmac.compare_digest(mac.encode("ascii"), _mac(key, installation, signed).encode()):
            return None
    except UnicodeError:
        return None
    found = _TEXT.fullmatch(signed)
    if found is None:
        return None
    return Claim(int(found["rank"]), UUID(found["claim"]), UUID(found["writer"]), int(found["written_at"]))


def _mac(key: bytes, installation: UUID, text: str) -> str:
    content = installation.bytes + text.encode("utf-8")
    return blake2b(content, digest_size=MAC_BYTES, key=key, person=_DOMAIN).hexdigest()


def find_foreign(claims: Iterable[Claim], known: KnownClaims) -> frozenset[Claim]:
    """Returns the claims of another database that may keep this database from starting.

    This database never wrote these claims, their rank is not below its own rank, and they are not stale.
    """
    return frozenset(
        claim
        for claim in claims
        if claim.claim not in known.claims
        and claim.rank >= known.rank
        and known.now - claim.written_at < STALE_SECONDS
    )


def find_unproven(claims: Iterable[Claim], known: KnownClaims) -> frozenset[Claim]:
    """Returns the recent claims that this database holds but its server did not write.

    Such claims came with copied files: a copy that starts within seconds holds all claims of its original.
    Returns none if the server wrote even one claim, because a bridge on this server was then not refused.
    """
    if known.witnessed:
        return frozenset()
    return frozenset(
        claim
        for claim in claims
        if claim.claim in known.claims
        and claim.rank >= known.rank
        and known.now - claim.written_at < PROVEN_SECONDS
    )


@dataclass(frozen=True)
class Watch:
    """The claims that a starting process has read so far."""

    seen: frozenset[Claim]
    """Foreign claims at the first reading."""
    limit_seconds: float
    watched_seconds: float = 0.0


def begin_watch(
    foreign: frozenset[Claim], unproven: frozenset[Claim], *, watch_seconds: float
) -> Watch | None:
    """Returns the claims to watch after the first reading. None if the process may start at once."""
    if foreign:
        return Watch(foreign, watch_seconds)
    # This time is longer than the period of claims plus the period of commits.
    return Watch(foreign, watch_seconds * 2 / 3) if unproven else None


def judge_claims(foreign: frozenset[Claim], watch: Watch, *, proven: bool = False) -> Verdict:
    """Decides after each later reading if the process starts.

    A new foreign claim proves that another database is active. A claim that vanished proves nothing, because
    an emptied Redis is filled again at the next renewal. `proven`: this server wrote a claim in the
    meantime, so only foreign claims still matter.
    """
    if foreign - watch.seen:
        return Verdict.REFUSE
    if proven and not watch.seen:
        return Verdict.TAKE_OVER
    return Verdict.TAKE_OVER if watch.watched_seconds >= watch.limit_seconds else Verdict.WATCH


def is_outranked(foreign: frozenset[Claim], seen: Mapping[UUID, Claim], *, rank: int) -> bool:
    """Returns True if a running bridge must stop, because a writer of a higher rank renewed its claim.

    `seen` are the foreign claims of the previous reading, by writer.
    """
    return any(
        claim.rank > rank and claim.writer in seen and claim.claim != seen[claim.writer].claim
        for claim in foreign
    )
