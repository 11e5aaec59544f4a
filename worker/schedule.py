"""What beat starts, and when; and which of several beats does."""

from typing import Any

import structlog
from celery.beat import Scheduler

from db.errors import ErrorKind, classify
from db.leader import try_lead
from db.session import Session
from tasks.broker import MAINTENANCE_QUEUE, RELAY_QUEUE, RELAY_TASK, apply_queue
from tasks.health import touch_health

log = structlog.get_logger("sluice.beat")

MAX_INTERVAL_SECONDS = 1.0  # beat wakes at least this often: another one's end is noticed this soon

EXPIRE_LEASES_TASK = "sluice.expire_leases"
PURGE_TASK = "sluice.purge"
SELF_CHECK_TASK = "sluice.self_check"
START_REBUILDS_TASK = "sluice.start_rebuilds"


def _every(seconds: float, task: str, queue: str) -> dict[str, Any]:
    # One that was not taken before the next is due has nothing to do any more.
    options = {"queue": apply_queue(queue), "expires": seconds, "ignore_result": True, "retry": False}
    return {"task": task, "schedule": seconds, "options": options}


SCHEDULE = {
    # The safety net under the kicks, and what dispatches calls whose back-off is over.
    "relay and dispatch": _every(1.0, RELAY_TASK, RELAY_QUEUE),
    "rebuilds": _every(1.0, START_REBUILDS_TASK, MAINTENANCE_QUEUE),
    "leases": _every(5.0, EXPIRE_LEASES_TASK, MAINTENANCE_QUEUE),
    "self-check": _every(60.0, SELF_CHECK_TASK, MAINTENANCE_QUEUE),
    "purge": _every(3_600.0, PURGE_TASK, MAINTENANCE_QUEUE),
}


class SluiceScheduler(Scheduler):  # type: ignore[misc]
    """Celery's scheduler without a file of its own: the schedule is code, and Postgres knows what is due.

    Of several beats the one that holds a lock in Postgres schedules; the lock ends with its connection.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._session: Session | None = None
        self._leads = False

    def setup_schedule(self) -> None:
        """The schedule above."""
        self.merge_inplace(SCHEDULE)

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """One turn of beat's loop; returns the seconds until the next."""
        touch_health(self.app.conf.sluice_health_file)
        if not self._try_lead():
            return MAX_INTERVAL_SECONDS
        return min(MAX_INTERVAL_SECONDS, float(super().tick(*args, **kwargs)))

    def close(self) -> None:
        """Lets go of the lock."""
        if self._session is not None:
            self._session.close()
        super().close()

    def _try_lead(self) -> bool:
        if self._session is None:
            url = self.app.sluice_settings.database_url.get_secret_value()
            self._session = Session(url, application_name="sluice beat")
        before = self._leads
        try:
            self._leads = try_lead(self._session)
        except Exception as error:
            self._session.close()
            self._leads = False
            if classify(error) is not ErrorKind.TRANSIENT:
                raise
            log.warning("Postgres is away: nothing is scheduled", error=str(error).strip())
        if self._leads != before:
            log.info("this beat leads" if self._leads else "this beat no longer leads")
        return self._leads
