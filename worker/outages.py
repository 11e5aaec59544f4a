"""Handles an outage of Postgres or Redis in a worker's task."""

from collections.abc import Callable

import structlog
from redis import RedisError, ResponseError

from sluice.db.connection import Session
from sluice.db.errors import Fault, needs_new_connection, whose_fault
from sluice.runtime.redis_client import PrefixedRedis
from sluice.runtime.redis_refusals import refused

log = structlog.get_logger("sluice.worker")


class Outages:
    """Logs an outage of Postgres or Redis, and ends the task.

    The work is retried later: beat publishes the task again, or a lease ends.
    """

    def __init__(self, session: Session, what: str, redis: Callable[[], PrefixedRedis]) -> None:
        self._session = session
        self._redis = redis
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        if needs_new_connection(error):
            self._session.close()
        away = isinstance(error, RedisError | OSError)
        if not away and whose_fault(error) is not Fault.SURROUNDINGS:
            return False
        if isinstance(error, ResponseError):
            refused.note(error, self._redis)
            return True
        log.warning("task aborted; beat will retry it", what=self._what, error=error)
        return True
