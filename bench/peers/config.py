"""The configuration of a peer: its servers, topic and consumer group."""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PeerConfig:
    """The configuration of one process of a peer. Sluice's environment variables name the servers."""

    database_url: str
    redis_url: str
    bootstrap_servers: str
    topic: str
    group: str


def read_config(peer: str, environ: Mapping[str, str] | None = None) -> PeerConfig:
    """Reads the configuration of this process. Raises KeyError with the missing name."""
    environ = os.environ if environ is None else environ
    return PeerConfig(
        database_url=environ["SLUICE_DATABASE_URL"],
        redis_url=environ["SLUICE_REDIS_URL"],
        bootstrap_servers=environ["SLUICE_KAFKA_BOOTSTRAP_SERVERS"],
        topic=environ["BENCH_TOPIC"],
        group=environ.get("BENCH_GROUP", f"bench-{peer}"),
    )
