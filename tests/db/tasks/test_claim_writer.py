"""A bridge writes claims to Postgres and Redis. It stops if another bridge renews a claim of higher rank."""

from typing import Any
from uuid import uuid4

import pytest

from sluice.bridge import claim_writer
from sluice.bridge.claim_writer import FORGOTTEN_SECONDS, ClaimWriter
from sluice.db.connection import Session
from sluice.db.delivery.claims import read_claim_key, read_known_claims
from sluice.runtime.installation import Installation
from sluice.runtime.settings import Settings
from sluice.tasks.installation.claim import open_claim
from sluice.tasks.installation.claim_reader import CLAIMS_KEY, MAX_GARBAGE, ClaimReader, RedisClaims
from tests.db.tasks import claiming
from tests.db.tasks.claiming import COUNT, Foreigner
from tests.mutants import mutated
from tests.waiting import wait_until

settings, installation = claiming.settings, claiming.installation
broker, foreigner = claiming.broker, claiming.foreigner


def test_the_bridge_deletes_claims_that_no_bridge_renews(
    settings: Settings, installation: Installation, foreigner: Foreigner, broker: Any
) -> None:
    other, writer = ClaimWriter(settings, installation), ClaimWriter(settings, installation)
    other.turn(0.0)
    foreigner.write()
    broker.hset(CLAIMS_KEY, "garbage", "garbage")
    writer.turn(0.0)
    assert broker.hlen(CLAIMS_KEY) == 3
    writer.turn(FORGOTTEN_SECONDS - 1)
    other.turn(FORGOTTEN_SECONDS - 1)
    assert broker.hlen(CLAIMS_KEY) == 3
    writer.turn(FORGOTTEN_SECONDS)
    (left,) = (name for name in broker.hkeys(CLAIMS_KEY) if name.decode() != writer.text.split(".")[3])
    assert left.decode() == other.text.split(".")[3]


@pytest.mark.parametrize("filled", [True, False])
def test_claims_in_redis_that_are_garbage_or_of_another_type_are_replaced(
    settings: Settings, installation: Installation, broker: Any, filled: bool
) -> None:
    if filled:
        broker.hset(CLAIMS_KEY, mapping={str(number): "x" for number in range(MAX_GARBAGE + 5)})
    else:
        broker.rpush(CLAIMS_KEY, "x")
    reader = ClaimReader(settings, installation)
    assert not reader.look().claims
    reader.close()
    writer = ClaimWriter(settings, installation)
    writer.turn(0.0)
    assert list(broker.hgetall(CLAIMS_KEY).values()) == [writer.text.encode()]


def check_outranked(
    module: Any, settings: Settings, installation: Installation, foreigner: Foreigner
) -> None:
    writer = module.ClaimWriter(settings, installation)
    for _ in range(2):
        foreigner.write(rank=0)
        writer.turn(0.0)
        assert not writer.outranked
    foreigner.writer = uuid4()
    foreigner.write(rank=1)
    for _ in range(2):
        writer.turn(0.0)
        assert not writer.outranked
    foreigner.write(rank=1)
    writer.turn(0.0)
    assert writer.outranked


def test_only_a_renewed_claim_of_a_higher_rank_stops_a_bridge(
    settings: Settings, installation: Installation, foreigner: Foreigner
) -> None:
    check_outranked(claim_writer, settings, installation, foreigner)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rank=look.known.rank", "rank=-1"),
        ("is_outranked(look.foreign, self._foreign, rank=look.known.rank)", "look.foreign"),
        ("is_outranked(look.foreign, self._foreign, rank=look.known.rank)", "False"),
    ],
)
def test_mutants_that_stop_for_another_reason_or_never_stop_are_caught(
    settings: Settings, installation: Installation, foreigner: Foreigner, old: str, new: str
) -> None:
    with pytest.raises(AssertionError):
        check_outranked(mutated(claim_writer, old, new), settings, installation, foreigner)


def test_the_claim_is_written_to_postgres_before_redis(
    settings: Settings, installation: Installation, session: Session, broker: Any
) -> None:
    writer = ClaimWriter(settings, installation)
    writer.turn(0.0)
    claim = open_claim(read_claim_key(session), installation.id, writer.text)
    assert claim is not None
    assert read_known_claims(session, [claim.claim]).claims == {claim.claim}
    session.command("ALTER TABLE sluice.claims RENAME TO away")
    with pytest.raises(Exception, match="claims"):
        writer.turn(1.0)
    assert broker.hgetall(CLAIMS_KEY) == {claim.writer.hex.encode(): writer.text.encode()}


def test_a_claim_that_was_just_written_counts_as_known(
    settings: Settings, installation: Installation
) -> None:
    writer = ClaimWriter(settings, installation)

    class Interleaved(ClaimReader):
        def read_redis(self) -> RedisClaims:
            writer.turn(0.0)
            return super().read_redis()

    reader = Interleaved(settings, installation)
    look = reader.look()
    reader.close()
    assert len(look.claims) == 1
    assert not look.foreign


def test_the_thread_continues_after_a_failure(
    settings: Settings, installation: Installation, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_writer, "PERIOD_SECONDS", 0.05)
    session.command("ALTER TABLE sluice.claim_key RENAME TO away")
    writer = ClaimWriter(settings, installation)
    writer.start()
    wait_until(
        lambda: session.run(COUNT)[0][0] > 1, timeout_seconds=10, what="turns of the thread have failed"
    )
    assert writer.text == ""
    session.command("ALTER TABLE sluice.away RENAME TO claim_key")
    wait_until(lambda: writer.text, timeout_seconds=10, what="a claim is written after the failure")
    writer.stop()
