"""The next revision of the application. For one key, the handler of its projection kills the process."""

import os
import signal
from collections.abc import Iterator
from typing import Any

from sluice import Event, Increment, ProjectionEffect, projects
from tests.system.tasks.dying_app import counted
from tests.system.tasks.dying_app import topics as topics


@projects("thing.seen", into=counted, revision=2)
def count_thing(event: Event[dict[str, Any]]) -> Iterator[ProjectionEffect]:
    """Yields an increment for the thing, or kills the process if the key is `deadly`."""
    if event.key == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    yield Increment(counted, event.key, {"seen": 1})
