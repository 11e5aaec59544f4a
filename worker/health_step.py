"""A step of Celery's worker that touches the health file."""

from typing import Any

from celery import bootsteps, signals

from sluice.runtime.health import TOUCH_EVERY_SECONDS, process_health, touch_health


class HealthStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Touches the health file from the worker's own loop, unless a thread of the worker is stuck."""

    requires = frozenset({"celery.worker.components:Timer"})

    def start(self, parent: Any) -> None:
        """Touches the file when the worker can take tasks, and then every few seconds by Celery's timer."""
        app = parent.app

        def touch(**_: Any) -> None:
            if not app.sluice_services.is_stuck():
                touch_health(app.conf.sluice_health_file)

        def join(**_: Any) -> None:
            process_health.has_joined = True

        for receive in (touch, join):
            signals.worker_ready.connect(receive, weak=False)
        parent.timer.call_repeatedly(TOUCH_EVERY_SECONDS, touch)
