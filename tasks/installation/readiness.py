"""Asks the servers of a process whether they accept its login and answer, for /readyz and the metrics."""

from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial

from sluice.db.connection import Session
from sluice.db.records import ProcessKind
from sluice.kafka_io.config import build_kafka_python_admin
from sluice.runtime.celery_options import MAINTENANCE_QUEUE, REBUILD_QUEUE, RELAY_QUEUE
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.outages import Server
from sluice.runtime.redis_pool import open_client
from sluice.runtime.settings import Settings

KAFKA_ANSWER_MS = 5_000
_QUEUES_OF_KAFKA = frozenset({RELAY_QUEUE, MAINTENANCE_QUEUE, REBUILD_QUEUE})


def uses_kafka(kind: ProcessKind, queues: Iterable[str] | None) -> bool:
    """Returns True if the process uses Kafka while it runs, and does not report the state itself. Pure.

    A bridge knows the state from its own connections. `queues`: those of a worker with `--queues`.
    """
    return kind is ProcessKind.BEAT or not _QUEUES_OF_KAFKA.isdisjoint(queues or ())


def server_probes(settings: Settings, *, with_kafka: bool = False) -> dict[Server, Callable[[], None]]:
    """Returns the probes of the servers. Each use opens and closes a connection."""
    return {
        **({"Kafka": partial(_ask_kafka, settings.kafka_access)} if with_kafka else {}),
        "Postgres": partial(_ask_postgres, settings.database_url.get_secret_value()),
        "Redis": partial(_ask_redis, settings.redis_url.get_secret_value()),
    }


def _ask_postgres(database_url: str) -> None:
    with closing(Session(database_url, application_name="sluice ready")) as session:
        session.command("SELECT 1")


def _ask_redis(redis_url: str) -> None:
    with open_client(redis_url) as client:
        client.ping()


def _ask_kafka(access: KafkaAccess) -> None:
    # kafka-python, because a pool may fork its children meanwhile, and locks of librdkafka would stay taken.
    build_kafka_python_admin(access, finds_refusal=False, bootstrap_timeout_ms=KAFKA_ANSWER_MS).close()
