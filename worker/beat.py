"""Which of several beats starts what is due."""

from socket import gethostname
from typing import Any

import psycopg2
import redis
import structlog
from celery import Celery
from celery.beat import Scheduler, SchedulingError

from sluice.db.connection import Session
from sluice.db.delivery.leases import try_lead
from sluice.db.errors import ErrorKind, classify
from sluice.db.records import ProcessKind
from sluice.runtime.exposition import MetricsEndpoint
from sluice.runtime.health import touch_health
from sluice.runtime.installation import InstallationRefused
from sluice.runtime.settings import SettingsError
from sluice.tasks.installation.joining import Membership, join_once
from sluice.tasks.task_sender import TaskSender, open_sender
from sluice.worker.beat_metrics import Lead, LeaderCollector, LeaderReader
from sluice.worker.schedule import SCHEDULE

log = structlog.get_logger("sluice.beat")

MAX_WAITING = 10  # more than the kinds of tasks of one queue
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
        self._membership: Membership | None = None
        self._made_sender: TaskSender | None = None
        self._refusal: str | None = None
        super().__init__(app, *args, **kwargs)
        self._session: Session | None = None

    def setup_schedule(self) -> None:
        """The schedule, and the metrics: only the one that will run comes here. Raises SystemExit."""
        self.merge_inplace(SCHEDULE)
        try:
            self._endpoint.open([self._metrics])
        except SettingsError as error:
            raise SystemExit(str(error)) from error

    def apply_async(self, entry: Any, *_: Any, advance: bool = True, **__: Any) -> None:
        """Publishes a signed task, unless MAX_WAITING messages wait on its queue already.

        So no list grows while nobody takes from it, and the clocks of beat and workers are not compared.
        Raises SchedulingError.
        """
        entry = self.reserve(entry) if advance else entry
        queue = entry.options["queue"]
        try:
            sender = self._sender()
            if sender.count_waiting(queue) < MAX_WAITING:
                sender.send(entry.task, queue)
        except (redis.RedisError, OSError) as error:
            raise SchedulingError(f"cannot publish {entry.task}: {error}") from error

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """One turn of beat's loop; returns the seconds until the next. Raises SystemExit."""
        touch_health(self.app.conf.sluice_health_file)
        if not self._try_join() or not self._try_lead():
            return MAX_INTERVAL_SECONDS
        return min(MAX_INTERVAL_SECONDS, float(super().tick(*args, **kwargs)))

    def close(self) -> None:
        """Lets go of the lock, and of the metrics' port."""
        self._endpoint.close()
        self._metrics.close()
        if self._membership is not None:
            self._membership.leave()
        if self._session is not None:
            self._session.close()
        super().close()
        if self._refusal is not None:
            # Celery ends with exit code 0 after a SystemExit in `tick`, but not after one here.
            raise SystemExit(self._refusal)

    def _sender(self) -> TaskSender:
        if self._made_sender is None:
            assert self._membership is not None
            self._made_sender = open_sender(
                self.app.sluice_settings, self._membership.installation, self._membership.ring
            )
        return self._made_sender

    def _try_join(self) -> bool:
        if self._membership is not None:
            return True
        settings = self.app.sluice_settings
        try:
            self._membership = join_once(settings, None, kind=ProcessKind.BEAT, node=gethostname())
        except InstallationRefused as error:
            log.error("beat refused", reason=str(error))
            self._refusal = f"Beat refused: {error}"
            raise SystemExit(self._refusal) from error
        except psycopg2.Error as error:
            if classify(error) is not ErrorKind.TRANSIENT:
                raise
            log.warning("waiting for Postgres", error=str(error).strip())
            return False
        return True

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
