"""What beat starts, and when: nothing yet but its own sign of life."""

from typing import Any

from celery.beat import Scheduler

from tasks.health import touch_health

MAX_INTERVAL_SECONDS = 5.0  # beat wakes at least this often, so that its file stays fresh


class SluiceScheduler(Scheduler):  # type: ignore[misc]
    """Celery's scheduler without a file of its own: the schedule is code, and Postgres knows what is due."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """One turn of beat's loop; returns the seconds until the next."""
        touch_health(self.app.conf.sluice_health_file)
        return float(super().tick(*args, **kwargs))
