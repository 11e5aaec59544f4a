"""Repeated log lines of an outage or of a library become one line per minute, which has their number."""

import json
import logging
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any

import psycopg2
import psycopg2.errors
import pytest
import redis
import structlog
from confluent_kafka import KafkaError, KafkaException
from kafka.errors import KafkaConnectionError
from kombu.exceptions import OperationalError

from sluice.db.connect_failures import ConnectCause, ConnectFailed
from sluice.kafka_io.consumer import BrokersAway
from sluice.runtime.log_pace import LOG_SECONDS
from sluice.runtime.logs import configure_logs
from sluice.runtime.outages import Server, server_away
from sluice.runtime.repeat_filter import AWAY, RepeatFilter


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "server"),
    [
        (psycopg2.OperationalError("server closed the connection unexpectedly"), "Postgres"),
        (psycopg2.InterfaceError("connection already closed"), "Postgres"),
        (
            psycopg2.DatabaseError("error with status PGRES_TUPLES_OK and no message from the libpq"),
            "Postgres",
        ),
        (ConnectFailed("cannot connect", ConnectCause.AWAY), "Postgres"),
        (ConnectFailed("session is read-only", ConnectCause.READ_ONLY), "Postgres"),
        (ConnectFailed("password authentication failed", ConnectCause.REFUSED), None),
        (psycopg2.ProgrammingError("can't adapt"), None),
        (psycopg2.DataError("a NUL"), None),
        (redis.ConnectionError("Connection refused"), "Redis"),
        (redis.TimeoutError("Timeout reading from socket"), "Redis"),
        (redis.BusyLoadingError("loading"), "Redis"),
        (OperationalError("Error 111"), "Redis"),
        (redis.AuthenticationError("invalid username-password pair"), None),
        (redis.OutOfMemoryError("maxmemory"), None),
        (redis.ResponseError("WRONGTYPE"), None),
        (KafkaException(KafkaError(KafkaError._TRANSPORT)), "Kafka"),
        (KafkaException(KafkaError(KafkaError._TIMED_OUT)), "Kafka"),
        (KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)), None),
        (KafkaException(KafkaError(KafkaError._AUTHENTICATION)), None),
        (KafkaConnectionError("refused"), "Kafka"),
        (BrokersAway("no broker"), "Kafka"),
        (caused(RuntimeError("wrapped"), redis.ConnectionError("refused")), "Redis"),
        (ConnectionRefusedError("of any server"), None),
        (ValueError("a bug"), None),
    ],
)
def test_the_unreachable_server_is_derived_from_the_error(error: Exception, server: str | None) -> None:
    assert server_away(error) == server


@pytest.fixture
def restored() -> Iterator[None]:
    """Restores the configuration of the logs after the test."""
    root = logging.getLogger()
    handlers, level, configuration = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)
    structlog.configure(**configuration)


ADDRESSES: dict[Server, str] = {"Postgres": "db:5432/shop", "Redis": "cache:6379/0", "Kafka": "kafka:9092"}


class Lines:
    """The log lines of a process, and its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self._stream = StringIO()
        configure_logs(log_format="json", level="info", process="test", addresses=ADDRESSES)
        [handler] = logging.getLogger().handlers
        assert isinstance(handler, logging.StreamHandler)
        assert [type(one) for one in handler.filters] == [RepeatFilter]
        handler.setStream(self._stream)
        handler.filters[:] = [RepeatFilter(ADDRESSES, clock=lambda: self.now)]

    def read(self) -> list[dict[str, Any]]:
        """Returns all lines. Fails if a line is not JSON."""
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]


@pytest.fixture
def lines(restored: None) -> Lines:
    return Lines()


CANNOT_CONNECT = ("Cannot connect to %s: %s.\n%s\n", "redis://", OperationalError("refused"), "Trying again")
LOST = psycopg2.OperationalError("server closed\n\tthe connection")
own = structlog.get_logger("sluice.test")
celery = logging.getLogger("celery.worker.consumer.consumer")
kafka = logging.getLogger("kafka.coordinator")
connections = logging.getLogger("kafka.net.transport")
shop = logging.getLogger("shop.handlers")


def _raised() -> None:
    try:
        raise LOST
    except psycopg2.Error:
        own.exception("task failed", task="relay")


POSTGRES: list[Callable[[], object]] = [
    lambda: own.warning("heartbeat not written", error=LOST),
    lambda: own.warning("keys not read", error=ConnectFailed("starting up", ConnectCause.AWAY)),
    lambda: own.info("transaction retried", error=LOST),
    lambda: own.warning("waiting", error="a text", **{AWAY: "Postgres"}),
    _raised,
]
OTHERS: list[Callable[[], object]] = [
    lambda: own.warning("heartbeat not written", error=ValueError("a bug")),
    lambda: own.warning("heartbeat not written", error=ConnectFailed("a password", ConnectCause.REFUSED)),
    lambda: own.warning("heartbeat not written", error="only a text"),
    lambda: own.info("queue continues"),
    lambda: shop.error("the shop: %s", LOST),
    lambda: logging.getLogger("celery.beat").info("of a library, below the level warning"),
]


def test_all_components_together_log_one_line_per_minute_about_an_outage(lines: Lines) -> None:
    for write in POSTGRES * 2:
        write()
    [first] = lines.read()
    assert (first["event"], first["outage"], first["process"]) == (
        "heartbeat not written",
        "Postgres",
        "test",
    )
    assert first["error"] == "server closed the connection"
    assert "more_in_the_last_minute" not in first
    lines.now = LOG_SECONDS
    _raised()
    assert (lines.read()[1]["event"], lines.read()[1]["more_in_the_last_minute"]) == ("task failed", 9)
    assert "exception" not in lines.read()[1]
    assert len(lines.read()) == 2


def test_a_line_that_is_not_about_an_outage_is_never_omitted(lines: Lines) -> None:
    for write in [POSTGRES[0], *OTHERS, *OTHERS]:
        write()
    assert len(lines.read()) == 1 + 2 * len(OTHERS)
    assert [line.get("outage") for line in lines.read()[1:]] == [None] * 2 * len(OTHERS)


def test_outages_of_different_servers_have_separate_lines(lines: Lines) -> None:
    for _ in range(3):
        own.warning("not sent", error=redis.ConnectionError("refused"))
        celery.error(*CANNOT_CONNECT)
        own.warning("not written", error=LOST)
        kafka.error("%s: closed", KafkaConnectionError("refused"))
    assert [(line["outage"], line["address"]) for line in lines.read()] == [
        ("Redis", "cache:6379/0"),
        ("Postgres", "db:5432/shop"),
        ("Kafka", "kafka:9092"),
    ]
    lines.now = LOG_SECONDS
    celery.error(*CANNOT_CONNECT)
    last = lines.read()[-1]
    assert (last["event"], last["more_in_the_last_minute"]) == (
        "Cannot connect to redis://: refused. Trying again",
        5,
    )


def test_lines_of_kafka_python_about_connections_are_an_outage_unless_the_broker_refused(
    lines: Lines,
) -> None:
    for text in (
        "socket disconnected",
        "No node available for metadata refresh",
        "SASL authentication failed",
    ):
        connections.error("<Transport 127.0.0.1:%d>: %s", 1, text)
    assert [(line["event"].rpartition(": ")[2], line.get("outage")) for line in lines.read()] == [
        ("socket disconnected", "Kafka"),
        ("SASL authentication failed", None),
    ]


def test_each_repeated_text_of_a_library_is_logged_at_most_one_time_per_minute(lines: Lines) -> None:
    for number in range(20):
        kafka.warning("<node_id=%d host=0x7f3a%x>: unexpected", number, number)
        kafka.error("other")
    events = [line["event"] for line in lines.read()]
    assert events == ["<node_id=0 host=0x7f3a0>: unexpected", "other"]
    lines.now = LOG_SECONDS
    kafka.error("other")
    assert lines.read()[-1]["more_in_the_last_minute"] == 19


def test_log_lines_of_other_threads_name_the_process(lines: Lines) -> None:
    structlog.contextvars.clear_contextvars()
    own.info("from a thread")
    shop.warning("from a library")
    assert [line["process"] for line in lines.read()] == ["test", "test"]


def test_a_python_warning_becomes_a_log_line(lines: Lines) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("of a library", UserWarning, stacklevel=1)
    assert "of a library" in lines.read()[0]["event"]
