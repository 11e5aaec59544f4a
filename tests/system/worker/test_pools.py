"""A worker with a pool in which time limits do not work is refused before it connects to a server."""

import os
import subprocess
import sys

import pytest

APP, THREADS_APP = "sluice.runtime.app", "tests.system.worker.threads_app"
NOWHERE = {
    "SLUICE_DATABASE_URL": "postgresql+psycopg2://me:secret@127.0.0.1:1/none",
    "SLUICE_REDIS_URL": "redis://127.0.0.1:1/0",
    "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "SLUICE_HANDLERS": "examples.shop.handlers",
}


@pytest.mark.parametrize(
    ("app", "options", "advice"),
    [
        (APP, ["-P", "threads", "-Q", "effects"], "run `sluice effects-worker`, or pass -P prefork"),
        (
            THREADS_APP,
            ["-Q", "relay,rebuild"],
            "the queues rebuild need them; run `sluice worker --queues rebuild,relay`",
        ),
        (THREADS_APP, [], "run `sluice worker`, or pass -P solo"),
    ],
    ids=["by option", "by configuration", "sharing the queues"],
)
def test_a_pool_of_threads_is_refused(app: str, options: list[str], advice: str) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", app, "worker", *options],
        env=clean | NOWHERE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Worker refused with the pool" in done.stderr
    assert advice in done.stderr
