"""Simulated later code. It also writes and reads a message format that the current code does not have."""

from sluice.tasks import task_messages
from sluice.tasks.installation import formats
from sluice.tasks.task_messages import TaskCall
from tests.system.worker.rolling_new_app import *  # noqa: F403

NEWER = 4
formats.NEWEST_FORMAT = NEWER


def _write(call: TaskCall) -> bytes:
    return b"newer" + task_messages.WRITERS[3](call)


def _read(content: bytes) -> TaskCall:
    assert content.startswith(b"newer")
    return task_messages.READERS[3](content[5:])


task_messages.WRITERS[NEWER] = _write
task_messages.READERS[NEWER] = _read
