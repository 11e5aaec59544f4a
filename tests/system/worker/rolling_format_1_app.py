"""Simulated older code, from before the second message format was added."""

from sluice.tasks import task_messages
from sluice.tasks.installation import formats
from tests.system.worker.rolling_new_app import *  # noqa: F403

formats.NEWEST_FORMAT = 1
for newer in (2, 3):
    task_messages.READERS.pop(newer, None)
