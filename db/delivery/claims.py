"""`claims` and `claim_key`: the claims of this database's bridges.

A claim is a random id. A bridge stores the claim in this database, and writes it into Redis and Kafka.
"""

from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

from sluice.db.connection import Session, Statement
from sluice.db.records import KnownClaims
from sluice.db.values import text_array

KEPT_CLAIMS = 1_000
WITNESSED_SECONDS = 3_600

READ_CLAIM_KEY = Statement("read_claim_key", "SELECT key FROM sluice.claim_key")


def read_claim_key(session: Session) -> bytes:
    """Returns the key that signs claims. Raises InsufficientPrivilege if the role may not read the key."""
    ((key,),) = session.run(READ_CLAIM_KEY)
    return bytes(key)


class WrittenClaim(NamedTuple):
    """The values of a claim that come from Postgres."""

    rank: int
    written_at: int
    """Seconds since 1970."""


# The DELETE does not see the new row of this statement, so it must keep one old row less.
WRITE_CLAIM = Statement(
    "write_claim",
    f"""
    WITH forgotten AS (
        DELETE FROM sluice.claims WHERE id < (
            SELECT id FROM sluice.claims ORDER BY id DESC OFFSET {KEPT_CLAIMS - 2} LIMIT 1)
    ), outdated AS (
        DELETE FROM sluice.witnessed_claims WHERE made_at < now() - interval '{WITNESSED_SECONDS} seconds'
    ), witnessed AS (
        INSERT INTO sluice.witnessed_claims (claim) VALUES ($1)
    )
    INSERT INTO sluice.claims (claim) VALUES ($1)
    RETURNING (SELECT rank FROM sluice.installation), extract(epoch FROM made_at)::bigint
    """,
    ("uuid",),
)


def write_claim(session: Session, claim: UUID) -> WrittenClaim:
    """Writes a claim and deletes the oldest claims."""
    ((rank, written_at),) = session.run(WRITE_CLAIM, claim)
    return WrittenClaim(rank, written_at)


READ_KNOWN_CLAIMS = Statement(
    "read_known_claims",
    """
    SELECT i.rank, extract(epoch FROM now())::bigint,
           ARRAY(SELECT claim::text FROM sluice.claims WHERE claim = ANY ($1::uuid[])),
           ARRAY(SELECT claim::text FROM sluice.witnessed_claims WHERE claim = ANY ($1::uuid[]))
    FROM sluice.installation i
    """,
    ("text[]",),
)


def read_known_claims(session: Session, claims: Iterable[UUID]) -> KnownClaims:
    """Returns which of the claims this database has stored, and the database's rank and time."""
    ((rank, now, *found),) = session.run(READ_KNOWN_CLAIMS, text_array(str(claim) for claim in claims))
    known, witnessed = (frozenset(map(UUID, texts)) for texts in found)
    return KnownClaims(rank, now, known, witnessed)


READ_RANK = Statement("lock_rank", "SELECT rank FROM sluice.installation FOR UPDATE")
WRITE_RANK = Statement("write_rank", "UPDATE sluice.installation SET rank = $1", ("int",))


def raise_rank(session: Session, above: Iterable[int]) -> tuple[int, int]:
    """Raises the rank above all ranks in `above`. Returns the old and the new rank.

    Requires a transaction.
    """
    ((before,),) = session.run(READ_RANK)
    after = max([before, *above]) + 1
    session.run(WRITE_RANK, after)
    return before, after
