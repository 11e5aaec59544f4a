"""Which of several beats starts what is due."""

from typing import Any

import structlog
from celery import Celery
from celery.beat import Scheduler

from sluice.db.connection import Session
from sluice.db.delivery.leases import try_lead
from sluice.db.errors import ErrorKind, classify
from sluice.runtime.exposition import MetricsEndpoint
from sluice.runtime.health import touch_health
from sluice.runtime.settings import SettingsError
from sluice.worker.beat_metrics import Lead, LeaderCollector, LeaderReader
from sluice.worker.schedule import SCHEDULE

log = structlog.get_logger("sluice.beat")

MAX_INTERVAL_SECONDS = 1.0  # beat wakes at least this often: another one's end is noticed this soon


class SluiceScheduler(Scheduler):  # type: ignore[misc]
    """Celery's scheduler without a file of its own: the schedule is code, and Postgres knows what is due.

    Of several beats the one that holds a lock in Postgres schedules; the lock ends with its connection.
    """

    max_interval = MAX_INTERVAL_SECONDS

    def __init__(self, app: Celery, *args: Any, **kwargs: Any) -> None:
        self._lead = Lead.FOLLOWS
        self._endpoint = MetricsEndpoint(app.sluice_settings)
        self._metrics = LeaderCollector(LeaderReader(app.sluice_settings), lead=lambda: self._lead)
        super().__init__(app, *args, **kwargs)
        self._session: Session | None = None

    def setup_schedule(self) -> None:
        """The schedule, and the metrics: only the one that will run comes here. Raises SystemExit."""
        self.merge_inplace(SCHEDULE)
        try:
            self._endpoint.open([self._metrics])
        except SettingsError as error:
            raise SystemExit(str(error)) from error

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """One turn of beat's loop; returns the seconds until the next."""
        touch_health(self.app.conf.sluice_health_file)
        if not self._try_lead():
            return MAX_INTERVAL_SECONDS
        return min(MAX_INTERVAL_SECONDS, float(super().tick(*args, **kwargs)))

    def close(self) -> None:
        """Lets go of the lock, and of the metrics' port."""
        self._endpoint.close()
        self._metrics.close()
        if self._session is not None:
            self._session.close()
        super().close()

    def _try_lead(self) -> bool:
        if self._session is None:
            url = self.app.sluice_settings.database_url.get_secret_value()
            self._session = Session(url, application_name="sluice beat")
        led = self._lead is Lead.LEADS
        try:
            self._lead = Lead.LEADS if try_lead(self._session) else Lead.FOLLOWS
        except Exception as error:
            self._session.close()
            self._lead = Lead.UNKNOWN
            if classify(error) is not ErrorKind.TRANSIENT:
                raise
            log.warning("Postgres is away: nothing is scheduled", error=str(error).strip())
        leads = self._lead is Lead.LEADS
        if leads != led:
            log.info("this beat leads" if leads else "this beat no longer leads")
        return leads
