"""Finds the unavailable server from an error. Pure.

Compares the names of exception classes, and therefore imports no client library.
"""

from typing import Literal, TypeAlias

from sluice.runtime.redis_failures import find_advice

Server: TypeAlias = Literal["Postgres", "Redis", "Kafka"]

# Errors that mean that no broker was reached, or that no broker answered. These are codes of librdkafka and
# of the protocol, and names of kafka-python's classes.
KAFKA_AWAY = frozenset(
    {
        *("_TRANSPORT", "_RESOLVE", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "REQUEST_TIMED_OUT"),
        *("KafkaConnectionError", "KafkaTimeoutError", "NodeNotReadyError", "NoBrokersAvailable"),
    }
)
MAX_CAUSES = 4
_POSTGRES_LOST = ("psycopg2.OperationalError", "psycopg2.InterfaceError")
# For some lost connections, libpq reports an error without a specific class.
_POSTGRES_UNSPECIFIC = ("psycopg2.Error", "psycopg2.DatabaseError")
_POSTGRES_AWAY = ("08", "57P", "53300", "25006")
_REDIS_AWAY = (
    "redis.exceptions.ConnectionError",
    "redis.exceptions.TimeoutError",
    "kombu.exceptions.OperationalError",
)


def server_away(error: BaseException) -> Server | None:
    """Returns the server that does not answer, according to the error or one of its causes.

    Returns None for other errors.
    """
    looked_at: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if looked_at is None:
            break
        server = _server_away(looked_at)
        if server is not None:
            return server
        looked_at = looked_at.__cause__
    return None


def _server_away(error: BaseException) -> Server | None:
    names = [f"{one.__module__}.{one.__name__}" for one in type(error).__mro__]
    if "psycopg2.Error" in names:
        return "Postgres" if _is_postgres_away(error, names) else None
    if any(name in names for name in _REDIS_AWAY):
        return "Redis" if find_advice(error) is None else None
    return "Kafka" if _kafka_code(error, names) in KAFKA_AWAY else None


def _is_postgres_away(error: BaseException, names: list[str]) -> bool:
    code = getattr(error, "pgcode", None)
    if code is not None:
        return str(code).startswith(_POSTGRES_AWAY)
    if getattr(error, "is_refused", False):
        return False
    return names[0] in _POSTGRES_UNSPECIFIC or any(name in names for name in _POSTGRES_LOST)


def _kafka_code(error: BaseException, names: list[str]) -> str:
    """Returns the code as in `sluice/kafka_io/kafka_errors.py`; "" if no client of Kafka raised the error."""
    if "kafka.errors.KafkaError" in names:
        return type(error).__name__
    if "cimpl.KafkaException" in names and error.args:
        return str(error.args[0].name())
    return str(getattr(error, "kafka_code", ""))
