"""Writes the claims of one bridge, and detects claims of another database.

A claim is a signed, random id that the bridge's database has stored. The bridge writes its claim to Redis and
Kafka. If a bridge reads a claim that its database did not write, another database has the same installation
id.
"""

import threading
import time
from contextlib import closing
from uuid import UUID, uuid4

import structlog
from redis import RedisError

from sluice.db.connection import Session
from sluice.db.delivery.claims import write_claim
from sluice.runtime.installation import Installation
from sluice.runtime.settings import Settings
from sluice.tasks.installation.claim import Claim, is_outranked, seal_claim
from sluice.tasks.installation.claim_reader import (
    CLAIMS_KEY,
    MAX_GARBAGE,
    ClaimReader,
    Look,
    RedisClaims,
    judge_look,
)

log = structlog.get_logger("sluice.bridge")

PERIOD_SECONDS = 10.0
FORGOTTEN_SECONDS = 60.0
"""If a claim in Redis has not changed for this long, its bridge has ended, and the claim is deleted."""
REPORT_SECONDS = 60.0
KAFKA_PAUSE_SECONDS = 60.0  # the pause after a failure; the client logs several lines per failure
STOP_SECONDS = 5.0  # the longest wait for the thread, which may have a request in flight

OUTRANKED = (
    "`sluice init --original` made another database with the same id the original, and a bridge of that"
    " database runs."
    " Stop the workers and beats of this database as well; to use this database beside the original,"
    " run `sluice init --new-installation`"
)


class ClaimWriter:
    """A thread beside the bridge's loop. It continues after outages of every service."""

    def __init__(self, settings: Settings, installation: Installation) -> None:
        self.text = ""
        """The newest claim, for the metadata of committed offsets; an empty text before the first claim."""
        self.outranked = False
        """True if a database of a higher rank writes claims. Then the bridge must stop."""
        self._writer = uuid4()
        self._reader = ClaimReader(settings, installation)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="claims", daemon=True)
        self._foreign: dict[UUID, Claim] = {}
        self._unchanged: dict[str, tuple[Claim, float]] = {}
        self._reported_at = self._kafka_at = float("-inf")
        self._failing = False

    def start(self) -> None:
        """Starts the thread, which writes a claim at once and then every PERIOD_SECONDS. Call it once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread. Idempotent."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        with closing(self._reader):
            while not self._stopping.is_set():
                try:
                    self.turn(time.monotonic())
                    self._failing = False
                except Exception as error:
                    # The thread continues after every error. Without it, bridges of a copied database could
                    # run unnoticed.
                    self._note_failure(error)
                self._stopping.wait(PERIOD_SECONDS)

    def turn(self, now: float) -> None:
        """Writes one claim, then reads all claims. Raises psycopg2.Error and RedisError."""
        in_redis, failed = RedisClaims({}, []), None
        with closing(self._reader.open_session()) as session:
            self._write(session)
            try:
                self._publish()
                in_redis = self._reader.read_redis()
                self._prune(in_redis, now)
            except RedisError as error:
                failed = error
            in_kafka = self._read_kafka(now)
            # Postgres is read after Redis and Kafka, so that it has all own claims that were read there.
            look = judge_look(session, frozenset(in_redis.claims.values()), in_kafka)
        self._note(look, now)
        if failed is not None:
            raise failed

    def _write(self, session: Session) -> None:
        claim = uuid4()
        rank, written_at = write_claim(session, claim)
        signed = Claim(rank, claim, self._writer, written_at)
        self.text = seal_claim(self._reader.key, self._reader.installation.id, signed)

    def _publish(self) -> None:
        self._reader.redis.hset(CLAIMS_KEY, self._writer.hex, self.text)

    def _read_kafka(self, now: float) -> frozenset[Claim] | None:
        if now < self._kafka_at:
            return None
        claims = self._reader.read_kafka()
        if claims is None:
            self._kafka_at = now + KAFKA_PAUSE_SECONDS
        return claims

    def _prune(self, found: RedisClaims, now: float) -> None:
        before = self._unchanged
        self._unchanged = {
            name: before[name] if name in before and before[name][0] == claim else (claim, now)
            for name, claim in found.claims.items()
            if name != self._writer.hex
        }
        redis = self._reader.redis
        if len(found.garbage) >= MAX_GARBAGE:
            # Deletes all claims. Running bridges write their claims again.
            redis.delete(CLAIMS_KEY)
            redis.hset(CLAIMS_KEY, self._writer.hex, self.text)
            return
        old = [name for name, (_, since) in self._unchanged.items() if now - since >= FORGOTTEN_SECONDS]
        if gone := [*found.garbage, *(name.encode() for name in old)]:
            redis.hdel(CLAIMS_KEY, *gone)

    def _note(self, look: Look, now: float) -> None:
        if is_outranked(look.foreign, self._foreign, rank=look.known.rank):
            self.outranked = True
        self._foreign = {claim.writer: claim for claim in look.foreign}
        if look.foreign and now - self._reported_at >= REPORT_SECONDS:
            self._reported_at = now
            log.warning(
                "another database works as this installation; run `sluice doctor`",
                writers=sorted(str(writer) for writer in self._foreign),
            )

    def _note_failure(self, error: Exception) -> None:
        if not self._failing:
            log.warning("claim not written", error=error)
        self._failing = True
