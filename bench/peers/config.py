"""Where a peer finds its servers, its topic and its schema: read once, in `main()`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PeerConfig:
    """What one process of a peer is told. The servers bear the names that Sluice's own settings have."""

    database_url: str
    redis_url: str
    bootstrap_servers: str
    topic: str
    group: str


def read_config(peer: str, environ: Mapping[str, str] | None = None) -> PeerConfig:
    """The configuration of this process. Raises KeyError naming what is missing."""
    environ = os.environ if environ is None else environ
    return PeerConfig(
        database_url=environ["SLUICE_DATABASE_URL"],
        redis_url=environ["SLUICE_REDIS_URL"],
        bootstrap_servers=environ["SLUICE_KAFKA_BOOTSTRAP_SERVERS"],
        topic=environ["BENCH_TOPIC"],
        group=environ.get("BENCH_GROUP", f"bench-{peer}"),
    )
