"""A step of Celery's worker that touches the health file."""

from typing import Any

from celery import bootsteps, signals

from sluice.runtime.health import TOUCH_EVERY_SECONDS, touch_health


class HealthStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Touches the health file from the worker's own loop, unless a thread of the worker is stuck."""

    requires = frozenset({"celery.worker.components:Timer"})

    def start(self, parent: Any) -> None:
        """Touches the file when the worker can take tasks, and then every few seconds by Celery's timer."""
        app = parent.app

        def touch(**_: Any) -> None:
            if not app.sluice_services.is_stuck():
                touch_health(app.conf.sluice_health_file)

        signals.worker_ready.connect(touch, weak=False)
        parent.timer.call_repeatedly(TOUCH_EVERY_SECONDS, touch)
