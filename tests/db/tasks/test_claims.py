"""Claims in a real Postgres and a real Redis: written, forgotten, looked at by a process that starts."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis

from sluice.bridge import claim_writer
from sluice.bridge.claim_writer import FORGOTTEN_SECONDS, ClaimWriter
from sluice.db.connection import Session, Statement
from sluice.db.delivery import claims as claims_module
from sluice.db.delivery.claims import (
    KEPT_CLAIMS,
    raise_rank,
    read_claim_key,
    read_known_claims,
    write_claim,
)
from sluice.db.delivery.installation import create_installation, read_installation
from sluice.kafka_io import group_metadata
from sluice.runtime.installation import Installation, InstallationRefused
from sluice.runtime.redis_client import build_redis
from sluice.runtime.settings import Settings
from sluice.tasks.installation.claim import Claim, open_claim, seal_claim
from sluice.tasks.installation.claim_check import ClaimCheck, refuse_if_claimed
from sluice.tasks.installation.claim_reader import CLAIMS_KEY, MAX_GARBAGE, ClaimReader, RedisClaims
from tests.mutants import mutated
from tests.waiting import wait_until

NOBODY = "127.0.0.1:1"
WATCH_SECONDS = 30.0
COUNT = Statement("count_claims", "SELECT count(*) FROM sluice.claims")
FILL = Statement(
    "fill", "INSERT INTO sluice.claims (claim) SELECT gen_random_uuid() FROM generate_series(1, $1)", ("int",)
)


@pytest.fixture
def settings(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: Session
) -> Settings:
    """Of a process without Kafka."""
    monkeypatch.setattr(group_metadata, "TIMEOUT_SECONDS", 0.05)
    create_installation(session, "sluice")
    return Settings.model_validate(
        {
            "database_url": database_url,
            "redis_url": redis_url,
            "kafka_bootstrap_servers": NOBODY,
            "health_file": str(tmp_path / "alive"),
        }
    )


@pytest.fixture
def installation(settings: Settings, session: Session) -> Installation:
    stored = read_installation(session)
    assert stored is not None
    return stored.installation


@pytest.fixture
def broker(settings: Settings, installation: Installation) -> Iterator[Any]:
    with build_redis(settings.redis_url.get_secret_value(), installation.redis_prefix) as client:
        yield client


class Foreigner:
    """Writes claims into Redis as a bridge of a copy would."""

    def __init__(self, session: Session, broker: Any, installation: Installation) -> None:
        self._session, self._broker, self._installation = session, broker, installation
        self._key = read_claim_key(session)
        self.writer = uuid4()

    def write(self, *, rank: int = 0, age: int = 0) -> str:
        now = read_known_claims(self._session, []).now
        text = seal_claim(self._key, self._installation.id, Claim(rank, uuid4(), self.writer, now - age))
        self._broker.hset(CLAIMS_KEY, self.writer.hex, text)
        return text


@pytest.fixture
def foreigner(session: Session, broker: Any, installation: Installation) -> Foreigner:
    return Foreigner(session, broker, installation)


def check_kept(module: Any, session: Session) -> None:
    session.run(FILL, KEPT_CLAIMS + 50)
    for _ in range(2):
        claim = uuid4()
        written = module.write_claim(session, claim)
        assert session.run(COUNT) == [(KEPT_CLAIMS,)]
        known = module.read_known_claims(session, [claim, uuid4()])
        assert known.claims == {claim}
        assert (known.rank, written.rank) == (0, 0)
        assert 0 <= known.now - written.written_at <= 60


def test_the_newest_claims_are_kept(settings: Settings, session: Session) -> None:
    check_kept(claims_module, session)


@pytest.mark.parametrize(
    ("old", "new"), [("KEPT_CLAIMS - 2", "KEPT_CLAIMS - 1"), ("id DESC OFFSET", "id OFFSET")]
)
def test_forgetting_other_claims_is_caught(settings: Settings, session: Session, old: str, new: str) -> None:
    with pytest.raises(AssertionError):
        check_kept(mutated(claims_module, old, new), session)


def test_the_rank_rises_above_every_other(settings: Settings, session: Session) -> None:
    for above, expected in (((), (0, 1)), ((0, 7), (1, 8)), ((3,), (8, 9))):
        with session.transaction():
            assert raise_rank(session, above) == expected
    assert write_claim(session, uuid4()).rank == 9


@pytest.fixture
def check(settings: Settings, installation: Installation) -> Iterator[ClaimCheck]:
    """That of a process which starts now."""
    reader = ClaimReader(settings, installation)
    yield ClaimCheck(reader, WATCH_SECONDS)
    reader.close()


def test_without_foreign_claims_a_process_starts_at_once(
    settings: Settings, installation: Installation, check: ClaimCheck
) -> None:
    ClaimWriter(settings, installation).turn(0.0)
    assert check.is_done(0.0)
    refuse_if_claimed(settings, installation)


def test_a_claim_that_is_not_renewed_is_taken_over(check: ClaimCheck, foreigner: Foreigner) -> None:
    foreigner.write()
    assert [check.is_done(now) for now in (0.0, WATCH_SECONDS - 0.1, WATCH_SECONDS)] == [False, False, True]


def test_a_claim_that_is_renewed_refuses_the_process(check: ClaimCheck, foreigner: Foreigner) -> None:
    foreigner.write()
    assert not check.is_done(0.0)
    foreigner.write()
    with pytest.raises(InstallationRefused, match="sluice init --original"):
        check.is_done(WATCH_SECONDS)


def test_an_outage_begins_the_watch_anew(
    check: ClaimCheck, foreigner: Foreigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreigner.write()
    assert not check.is_done(0.0)
    with monkeypatch.context() as patched:
        patched.setattr(check.reader, "redis", Redis(port=1))
        assert not check.is_done(1.0)
    assert not check.is_done(WATCH_SECONDS + 10)
    foreigner.write()
    with pytest.raises(InstallationRefused):
        check.is_done(WATCH_SECONDS + 11)


def test_a_claim_that_came_with_the_files_is_watched(
    settings: Settings,
    session: Session,
    installation: Installation,
    check: ClaimCheck,
    foreigner: Foreigner,
) -> None:
    ClaimWriter(settings, installation).turn(0.0)
    # As in a base backup: Postgres leaves out what is unlogged.
    session.command("TRUNCATE sluice.witnessed_claims")
    assert [check.is_done(now) for now in (0.0, 19.9)] == [False, False]
    foreigner.write()
    with pytest.raises(InstallationRefused):
        check.is_done(20.0)


@pytest.mark.parametrize("passed", [{"rank": 0}, {"rank": 5, "age": 3_700}])
def test_a_lower_rank_and_a_stale_claim_delay_nobody(
    session: Session, check: ClaimCheck, foreigner: Foreigner, passed: dict[str, int]
) -> None:
    with session.transaction():
        raise_rank(session, [0])
    foreigner.write(**passed)
    assert check.is_done(0.0)


def test_the_bridge_deletes_what_no_bridge_renews(
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
def test_a_hash_full_of_garbage_and_another_key_are_replaced(
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


def test_only_a_higher_rank_that_is_renewed_stops_a_bridge(
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
def test_stopping_for_other_reasons_is_caught(
    settings: Settings, installation: Installation, foreigner: Foreigner, old: str, new: str
) -> None:
    with pytest.raises(AssertionError):
        check_outranked(mutated(claim_writer, old, new), settings, installation, foreigner)


def test_the_claim_is_in_postgres_before_it_is_anywhere_else(
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


def test_the_thread_outlasts_any_failure(
    settings: Settings, installation: Installation, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim_writer, "PERIOD_SECONDS", 0.05)
    session.command("ALTER TABLE sluice.claim_key RENAME TO away")
    writer = ClaimWriter(settings, installation)
    writer.start()
    wait_until(lambda: session.run(COUNT)[0][0] > 1, timeout_seconds=10, what="turns that failed")
    assert writer.text == ""
    session.command("ALTER TABLE sluice.away RENAME TO claim_key")
    wait_until(lambda: writer.text, timeout_seconds=10, what="a claim after the failure")
    writer.stop()
