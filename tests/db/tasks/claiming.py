"""An installation on a real Postgres and Redis, and the foreign claims that the bridge of a copy writes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from sluice.db.connection import Session, Statement
from sluice.db.delivery.claims import read_claim_key, read_known_claims
from sluice.db.delivery.installation import create_installation, read_installation
from sluice.kafka_io import group_metadata
from sluice.runtime.installation import Installation
from sluice.runtime.redis_client import build_redis
from sluice.runtime.settings import Settings
from sluice.tasks.installation.claim import Claim, seal_claim
from sluice.tasks.installation.claim_reader import CLAIMS_KEY

UNREACHABLE = "127.0.0.1:1"
COUNT = Statement("count_claims", "SELECT count(*) FROM sluice.claims")


@pytest.fixture
def settings(
    database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: Session
) -> Settings:
    """Returns the settings of a process that cannot reach Kafka."""
    monkeypatch.setattr(group_metadata, "TIMEOUT_SECONDS", 0.05)
    create_installation(session, "sluice")
    return Settings.model_validate(
        {
            "database_url": database_url,
            "redis_url": redis_url,
            "kafka_bootstrap_servers": UNREACHABLE,
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
    """Writes claims to Redis, as the bridge of a copied installation does."""

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
