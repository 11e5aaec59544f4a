"""Turns the errors of the services' clients into one sentence each."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal, TypeAlias

from sluice.kafka_io import kafka_errors
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.redis_failures import find_advice, redis_address
from sluice.runtime.settings import SettingsError, read_kafka_security, with_secrets

ServiceTitle: TypeAlias = Literal["Postgres", "Redis", "Kafka"]

SETTING_OF: dict[ServiceTitle, str] = {
    "Postgres": "SLUICE_DATABASE_URL",
    "Redis": "SLUICE_REDIS_URL",
    "Kafka": "SLUICE_KAFKA_BOOTSTRAP_SERVERS",
}
# SQLSTATEs of a missing table or schema.
_NO_TABLES = frozenset({"42P01", "3F000"})


class ServiceFailed(RuntimeError):
    """A service did not answer, or refused; the message has its name, its address and the reason."""

    def __init__(self, service: ServiceTitle, reason: str) -> None:
        self.service = service
        self.reason = reason
        from sluice.kafka_io.login_check import EXPIRED

        # A refusal by Kafka begins with its cause, mostly a setting.
        is_named = reason.startswith(("SLUICE_", EXPIRED))
        name = service if is_named else f"{service} ({SETTING_OF[service]})"
        super().__init__(f"{name}: {reason}{_start_advice(reason)}")


def _start_advice(reason: str) -> str:
    """Returns how to start the server if it should run on this machine and does not."""
    is_local = any(name in reason for name in ("127.0.0.1", "localhost", "[::1]"))
    is_away = any(text in reason for text in ("Connection refused", "Unable to bootstrap"))
    advice = '; start it, or run: eval "$(sluice stack up)" (in a project of `sluice new DIR`: make dev)'
    return advice if is_local and is_away else ""


@contextmanager
def reaching_services() -> Iterator[None]:
    """Raises ServiceFailed for errors of the services' clients."""
    try:
        yield
    except Exception as error:
        failed = failed_service(error)
        if failed is None:
            raise
        raise failed from error


def failed_service(error: Exception) -> ServiceFailed | None:
    """Returns the failure for an error of a service's client, None for any other error."""
    # Imported only after a failure: no command needs all of them.
    import psycopg2
    from alembic.util import CommandError
    from confluent_kafka import KafkaException
    from kafka.errors import KafkaError
    from kombu.exceptions import OperationalError
    from redis import RedisError
    from sqlalchemy.exc import SQLAlchemyError

    from sluice.kafka_io.log_reader import LogsUnavailable
    from sluice.kafka_io.partition_reader import PartitionStalled

    kinds: dict[ServiceTitle, tuple[type[Exception], ...]] = {
        "Postgres": (psycopg2.Error, SQLAlchemyError, CommandError),
        # kombu raises this error for the same server.
        "Redis": (RedisError, OperationalError),
        # confluent-kafka's futures raise TimeoutError without a code.
        "Kafka": (KafkaError, KafkaException, LogsUnavailable, PartitionStalled, TimeoutError),
    }
    for service, classes in kinds.items():
        if isinstance(error, classes):
            return ServiceFailed(service, _reason(service, error))
    return None


def _reason(service: ServiceTitle, error: Exception) -> str:
    """Returns the reason, the address (errors of Postgres contain it), and what to do."""
    reason, setting = _one_line(error), ""
    with suppress(SettingsError):  # the file of a secret may have gone meanwhile
        setting = with_secrets(os.environ).get(SETTING_OF[service], "")
    if service == "Postgres" or not setting:
        return reason
    from sluice.kafka_io.login_check import read_sentence

    address, advice = setting, None
    if service == "Redis":
        address, advice = redis_address(setting), find_advice(error)
    else:
        refusal = read_sentence(reason) or _find_refusal(setting)
        if refusal is not None:
            return refusal
        advice = kafka_errors.find_advice(reason)
    return f"cannot use {address}: {reason}" + ("" if advice is None else f"; {advice}")


def _find_refusal(servers: str) -> str | None:
    from sluice.kafka_io.login_check import find_refusal

    try:
        return find_refusal(KafkaAccess(servers, read_kafka_security(os.environ)))
    except (SettingsError, ValueError):
        return None


def _one_line(error: Exception) -> str:
    from redis import OutOfMemoryError
    from sqlalchemy.exc import DBAPIError

    from sluice.db.errors import GRANT_ADVICE, NO_RIGHT, sqlstate

    # SQLAlchemy's own text also contains the statement and its parameters.
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    if getattr(cause, "pgcode", None) in _NO_TABLES:
        return "it answers, but has no tables of Sluice; run `sluice init`, or correct SLUICE_SCHEMA"
    if isinstance(cause, OutOfMemoryError):
        return "it is full (maxmemory); free memory or raise the limit, then repeat the command"
    lines = [line.strip().rstrip(".") for line in str(cause).splitlines() if line.strip()]
    if sqlstate(cause) == NO_RIGHT:
        lines.append(GRANT_ADVICE)
    return "; ".join(lines) or type(cause).__name__
