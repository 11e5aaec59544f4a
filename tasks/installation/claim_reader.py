"""Reads the claims of all databases that work as this installation, from Redis and Kafka."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import structlog
from redis import Redis

from sluice.db.connection import Session
from sluice.db.delivery.claims import read_claim_key, read_known_claims
from sluice.db.records import KnownClaims
from sluice.kafka_io.group_metadata import GroupMetadataReader, GroupMetadataUnavailable
from sluice.runtime.installation import Installation
from sluice.runtime.redis_client import build_redis
from sluice.runtime.redis_pool import require_no_cluster
from sluice.runtime.settings import Settings
from sluice.tasks.installation.claim import Claim, find_foreign, find_unproven, open_claim

log = structlog.get_logger("sluice.installation")

CLAIMS_KEY = "claims"
"""A hash in Redis: the writer of a claim → the claim."""
SCAN_COUNT = 500
MAX_GARBAGE = 1_000


class RedisClaims(NamedTuple):
    """The contents of the hash in Redis."""

    claims: dict[str, Claim]
    """Field (the writer) → claim."""
    garbage: list[bytes]
    """Fields without a valid claim of their writer, at most MAX_GARBAGE."""


class Look(NamedTuple):
    """The claims that one reading found."""

    claims: frozenset[Claim]
    foreign: frozenset[Claim]
    unproven: frozenset[Claim]
    known: KnownClaims
    kafka_answered: bool


class ClaimReader:
    """Connects at its first use. Not thread-safe."""

    def __init__(
        self, settings: Settings, installation: Installation, *, may_be_read_only: bool = False
    ) -> None:
        """`may_be_read_only`: a standby of Postgres is accepted."""
        self._may_be_read_only = may_be_read_only
        self.installation = installation
        self.redis_url = settings.redis_url.get_secret_value()
        self.redis: Redis = build_redis(self.redis_url, installation.redis_prefix)
        self._url = settings.database_url.get_secret_value()
        self._kafka = GroupMetadataReader(settings.kafka_access, installation.group)
        self._kafka_failed = False
        self._key: bytes | None = None

    @property
    def key(self) -> bytes:
        """Returns the key that signs claims. No command changes it. Raises psycopg2.Error."""
        if self._key is None:
            with closing(self.open_session()) as session:
                self._key = read_claim_key(session)
        return self._key

    def open_session(self) -> Session:
        """Returns a session for one reading. It connects at its first statement."""
        return Session(self._url, application_name="sluice claims", may_be_read_only=self._may_be_read_only)

    def read_redis(self) -> RedisClaims:
        """Returns the claims in Redis. Raises RedisError and psycopg2.Error."""
        found = RedisClaims({}, [])
        for field, text in self._scan():
            claim, name = open_claim(self.key, self.installation.id, text), field.decode("latin-1")
            if claim is not None and claim.writer.hex == name:
                found.claims[name] = claim
            elif len(found.garbage) < MAX_GARBAGE:
                found.garbage.append(field)
        return found

    def _scan(self) -> Iterator[tuple[bytes, bytes]]:
        # Read in pages: another program may have filled the hash.
        cursor: int | None = None
        while cursor != 0:
            answer: Any = self.redis.hscan(CLAIMS_KEY, cursor or 0, count=SCAN_COUNT)
            cursor, page = answer
            yield from page.items()

    def read_kafka(self) -> frozenset[Claim] | None:
        """Returns the claims in the metadata of the group's offsets; None if Kafka cannot be read.

        Raises psycopg2.Error.
        """
        try:
            texts = self._kafka.read()
        except GroupMetadataUnavailable as error:
            if not self._kafka_failed:
                log.info("claims not read from Kafka", error=error)
            self._kafka_failed = True
            return None
        self._kafka_failed = False
        claims = (open_claim(self.key, self.installation.id, text) for text in texts)
        return frozenset(claim for claim in claims if claim is not None)

    def look(self, *, with_kafka: bool = True) -> Look:
        """Reads Redis, Kafka, then Postgres. In this order, a claim of this database that was
        written meanwhile counts as known.

        Raises RedisError, also for a Redis Cluster, and psycopg2.Error.
        """
        require_no_cluster(self.redis)
        claims = frozenset(self.read_redis().claims.values())
        in_kafka = self.read_kafka() if with_kafka else None
        with closing(self.open_session()) as session:
            return judge_look(session, claims, in_kafka)

    def close(self) -> None:
        """Ends the connections. Idempotent."""
        self._kafka.close()
        self.redis.close()


def judge_look(session: Session, claims: frozenset[Claim], in_kafka: frozenset[Claim] | None) -> Look:
    """Compares claims with Postgres. The claims must be read first. Raises psycopg2.Error."""
    every = claims | (in_kafka or frozenset())
    known = read_known_claims(session, (claim.claim for claim in every))
    return Look(every, find_foreign(every, known), find_unproven(every, known), known, in_kafka is not None)
