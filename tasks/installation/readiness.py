"""Asks the servers that every process needs whether they answer, for /readyz."""

from collections.abc import Callable
from contextlib import closing
from functools import partial

from sluice.db.connection import Session
from sluice.runtime.outages import Server
from sluice.runtime.redis_pool import open_client
from sluice.runtime.settings import Settings


def server_probes(settings: Settings) -> dict[Server, Callable[[], None]]:
    """Returns the probes of Postgres and Redis. Each use opens and closes a connection."""
    return {
        "Postgres": partial(_ask_postgres, settings.database_url.get_secret_value()),
        "Redis": partial(_ask_redis, settings.redis_url.get_secret_value()),
    }


def _ask_postgres(database_url: str) -> None:
    with closing(Session(database_url, application_name="sluice ready")) as session:
        session.command("SELECT 1")


def _ask_redis(redis_url: str) -> None:
    with open_client(redis_url) as client:
        client.ping()
