"""How long what happened is remembered, and the forgetting. The first part is pure."""

import time
from collections.abc import Callable, Mapping

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    ConfigResource,
    ResourceType,
)

from sluice.db.admin import retention
from sluice.db.connection import Session
from sluice.kafka_io.config import LOG_LEVEL_CRITICAL, KafkaAccess, build_confluent_admin
from sluice.runtime.settings import Settings

log = structlog.get_logger("sluice.maintenance")

DAY_SECONDS = 86_400.0
# Some write "for ever" as the largest number there is; Postgres knows no time so long ago.
FOR_EVER_SECONDS = 100 * 365 * DAY_SECONDS
MARGIN_SECONDS = DAY_SECONDS  # records that were read, or sent, and lie somewhere yet
ROWS = 5_000  # of one statement: some milliseconds, so that nobody waits behind it
MOST_SECONDS = 20.0  # of one run; the next one goes on
ANSWER_SECONDS = 10.0


def identity_seconds(
    *, wanted_seconds: float, topic_retention_seconds: float | None, oldest_parked_seconds: float
) -> float | None:
    """The age at which identities of a topic may be forgotten; None: never.

    Never before Kafka has deleted the records: until then they may come again, by a replay or because a
    parked entity is redriven. `topic_retention_seconds` is None for a topic that keeps its records for ever,
    or of which nobody knows.
    """
    if topic_retention_seconds is None:
        return None
    return max(wanted_seconds, topic_retention_seconds + oldest_parked_seconds + MARGIN_SECONDS)


def retention_seconds(config: Mapping[str, str]) -> float | None:
    """How long a topic keeps records, from its Kafka configuration; None: for ever, or it is not said."""
    if config.get("cleanup.policy", "") != "delete":
        return None
    seconds = int(config.get("retention.ms", "-1")) / 1000
    return seconds if 0 <= seconds < FOR_EVER_SECONDS else None


def read_topic_configs(bootstrap_servers: str, topics: list[str]) -> dict[str, dict[str, str]]:
    """Topic → its configuration, of the topics that exist."""
    admin = build_confluent_admin(KafkaAccess(bootstrap_servers), {"log_level": LOG_LEVEL_CRITICAL})
    asked = admin.describe_configs(
        [ConfigResource(ResourceType.TOPIC, topic) for topic in topics], request_timeout=ANSWER_SECONDS
    )
    found = {}
    for resource, future in asked.items():
        try:
            found[resource.name] = {e.name: e.value for e in future.result(ANSWER_SECONDS).values()}
        except (KafkaException, TimeoutError) as error:
            log.info("retention not known: identities are kept", topic=resource.name, error=str(error))
    return found


def purge(
    session: Session,
    settings: Settings,
    configs: Mapping[str, Mapping[str, str]],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, int]:
    """Forgets what is old enough, for MOST_SECONDS; rows by kind. May run often, and at once."""
    deadline = clock() + MOST_SECONDS
    parked = retention.read_oldest_parked_seconds(session)
    kinds: dict[str, Callable[[], int]] = {}
    for topic, config in sorted(configs.items()):
        age = identity_seconds(
            wanted_seconds=settings.keep_identities_days * DAY_SECONDS,
            topic_retention_seconds=retention_seconds(config),
            oldest_parked_seconds=parked,
        )
        if age is not None:
            kinds[f"identities of {topic}"] = lambda topic=topic, age=age: retention.purge_identities(  # type: ignore[misc]
                session, topic, age, ROWS
            )
    effects_age = settings.keep_effects_days * DAY_SECONDS
    letters_age = settings.keep_dead_letters_days * DAY_SECONDS
    kinds["calls"] = lambda: retention.purge_calls(session, effects_age, ROWS)
    kinds["dead letters"] = lambda: retention.purge_dead_letters(session, letters_age, ROWS)
    gone: dict[str, int] = {}
    for kind, forget in kinds.items():
        while clock() < deadline and (count := forget()):
            gone[kind] = gone.get(kind, 0) + count
    return gone
