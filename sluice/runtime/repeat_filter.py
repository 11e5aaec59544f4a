"""Limits log lines about an outage, and repeated lines of a client library, to one line per minute."""

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from sluice.runtime.log_pace import LogPace
from sluice.runtime.outages import Server, server_away

# Only lines of these loggers are omitted: any other logger may belong to a user's handler.
LIBRARIES = frozenset(
    {
        "alembic",
        "amqp",
        "asyncio",
        "billiard",
        "celery",
        "kafka",
        "kombu",
        "py",
        "redis",
        "sqlalchemy",
        "vine",
    }
)
AWAY = "away"
"""A field that Sluice's own code sets if a line about an outage has no exception: the unavailable server."""
OUTAGE, ADDRESS, MORE = "outage", "address", "more_in_the_last_minute"
FIELDS = frozenset({OUTAGE, ADDRESS, MORE})
"""The fields that the filter adds: the server, its address, and the number of earlier omitted lines."""

# Loggers of kafka-python for connections to brokers. They log errors as text, without the exception.
_KAFKA_CONNECTIONS = ("kafka.net", "kafka.conn", "kafka.cluster", "kafka.client")
_IS_REFUSED = re.compile("authenti|authoriz|sasl|ssl|tls|certificate|version", re.IGNORECASE)
# Matches parts that differ between lines about the same subject: addresses of objects, ids, counts, times.
_VARYING = re.compile(r"\b(?:0x)?[0-9a-f]*\d[0-9a-f]*\b", re.IGNORECASE)


class RepeatFilter(logging.Filter):
    """Passes one line per minute for each unavailable server, and for each text of a client library.

    Thread-safe. All lines about the outage of one server count together, whichever component logs them.
    """

    def __init__(
        self,
        addresses: Mapping[Server, str] = MappingProxyType({}),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._addresses = addresses
        self._pace = LogPace(clock=clock)
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns False if the line must be omitted. Otherwise adds FIELDS to the line."""
        server = _find_outage(record)
        subject = (OUTAGE, server) if server is not None else _library_subject(record)
        if subject is None:
            return True
        with self._lock:
            more = self._pace.count(subject)
        if more is None:
            return False
        fields: dict[str, Any] = {MORE: more} if more else {}
        if server is not None:
            fields |= {OUTAGE: server, ADDRESS: self._addresses.get(server, "")}
        _write_fields(record, fields)
        return True


def _find_outage(record: logging.LogRecord) -> Server | None:
    if isinstance(record.msg, dict) and (marked := record.msg.pop(AWAY, None)) is not None:
        return marked  # type: ignore[no-any-return]
    if record.name.startswith(_KAFKA_CONNECTIONS) and not _IS_REFUSED.search(record.getMessage()):
        return "Kafka" if record.levelno >= logging.WARNING else None
    return next((server for error in _errors_of(record) if (server := server_away(error)) is not None), None)


def _errors_of(record: logging.LogRecord) -> Iterator[BaseException]:
    candidates: list[Any] = []
    if isinstance(record.msg, dict):
        raised = record.msg.get("exc_info")
        candidates = [record.msg.get("error"), sys.exc_info()[1] if raised is True else raised]
    elif _is_library(record):
        given = record.args.values() if isinstance(record.args, dict) else record.args or ()
        candidates = [*given, *(record.exc_info or ())]
    yield from (one for one in candidates if isinstance(one, BaseException))


def _library_subject(record: logging.LogRecord) -> Hashable:
    if record.levelno < logging.WARNING or not _is_library(record):
        return None
    return (record.name, record.levelno, _VARYING.sub("#", record.getMessage()))


def _is_library(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] in LIBRARIES


def _write_fields(record: logging.LogRecord, fields: dict[str, Any]) -> None:
    """Adds the fields. Converts a line about an outage to a single line without a traceback."""
    if isinstance(record.msg, dict):
        record.msg.update(fields)
        if OUTAGE in fields:
            record.msg.pop("exc_info", None)
        return
    vars(record).update(fields)
    if OUTAGE in fields:
        record.msg, record.args = " ".join(record.getMessage().split()), ()
        record.exc_info = record.exc_text = None
