"""Claims of bridges in Postgres and Redis. A claim of another bridge delays or refuses a starting process."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis

from sluice.bridge.claim_writer import ClaimWriter
from sluice.db.connection import Session, Statement
from sluice.db.delivery import claims as claims_module
from sluice.db.delivery.claims import KEPT_CLAIMS, raise_rank, write_claim
from sluice.runtime.installation import Installation, InstallationRefused
from sluice.runtime.settings import Settings
from sluice.tasks.installation.claim_check import ClaimCheck, refuse_if_claimed
from sluice.tasks.installation.claim_reader import ClaimReader
from tests.db.tasks import claiming
from tests.db.tasks.claiming import COUNT, Foreigner
from tests.mutants import mutated

settings, installation = claiming.settings, claiming.installation
broker, foreigner = claiming.broker, claiming.foreigner
WATCH_SECONDS = 30.0
FILL = Statement(
    "fill", "INSERT INTO sluice.claims (claim) SELECT gen_random_uuid() FROM generate_series(1, $1)", ("int",)
)


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
def test_mutants_that_delete_the_wrong_claims_are_caught(
    settings: Settings, session: Session, old: str, new: str
) -> None:
    with pytest.raises(AssertionError):
        check_kept(mutated(claims_module, old, new), session)


def test_the_rank_is_raised_above_every_other_rank(settings: Settings, session: Session) -> None:
    for above, expected in (((), (0, 1)), ((0, 7), (1, 8)), ((3,), (8, 9))):
        with session.transaction():
            assert raise_rank(session, above) == expected
    assert write_claim(session, uuid4()).rank == 9


@pytest.fixture
def check(settings: Settings, installation: Installation) -> Iterator[ClaimCheck]:
    """Yields the claim check of a process that starts now."""
    reader = ClaimReader(settings, installation)
    yield ClaimCheck(reader, WATCH_SECONDS)
    reader.close()


def test_without_foreign_claims_a_process_starts_immediately(
    settings: Settings, installation: Installation, check: ClaimCheck
) -> None:
    ClaimWriter(settings, installation).turn(0.0)
    assert check.is_done(0.0)
    refuse_if_claimed(settings, installation)


def test_a_process_starts_if_a_foreign_claim_is_not_renewed(check: ClaimCheck, foreigner: Foreigner) -> None:
    foreigner.write()
    assert [check.is_done(now) for now in (0.0, WATCH_SECONDS - 0.1, WATCH_SECONDS)] == [False, False, True]


def test_a_process_is_refused_if_a_foreign_claim_is_renewed(check: ClaimCheck, foreigner: Foreigner) -> None:
    foreigner.write()
    assert not check.is_done(0.0)
    foreigner.write()
    with pytest.raises(InstallationRefused, match="sluice init --original"):
        check.is_done(WATCH_SECONDS)


def test_an_outage_restarts_the_watch(
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


def test_a_process_on_copied_database_files_watches_the_claim_of_the_original(
    settings: Settings,
    session: Session,
    installation: Installation,
    check: ClaimCheck,
    foreigner: Foreigner,
) -> None:
    ClaimWriter(settings, installation).turn(0.0)
    # A base backup does not contain the rows of unlogged tables.
    session.command("TRUNCATE sluice.witnessed_claims")
    assert [check.is_done(now) for now in (0.0, 19.9)] == [False, False]
    foreigner.write()
    with pytest.raises(InstallationRefused):
        check.is_done(20.0)


@pytest.mark.parametrize("passed", [{"rank": 0}, {"rank": 5, "age": 3_700}])
def test_a_claim_of_a_lower_rank_or_an_old_claim_delays_no_process(
    session: Session, check: ClaimCheck, foreigner: Foreigner, passed: dict[str, int]
) -> None:
    with session.transaction():
        raise_rank(session, [0])
    foreigner.write(**passed)
    assert check.is_done(0.0)
