"""Beat's scheduler. If several beats run, only one of them, the leading beat, schedules tasks."""

import time
from collections.abc import Callable
from socket import gethostname
from typing import Any, NoReturn

import psycopg2
import redis
import structlog
from celery import Celery
from celery.beat import Scheduler

from sluice.db.connection import Session
from sluice.db.delivery.leases import try_lead
from sluice.db.errors import Fault, allows_waiting_at_start, describe_refusal, whose_fault
from sluice.db.records import ProcessKind
from sluice.runtime.exposition import MetricsEndpoint
from sluice.runtime.health import process_health, touch_health
from sluice.runtime.installation import InstallationRefused
from sluice.runtime.log_pace import LogPace
from sluice.runtime.redis_refusals import refused
from sluice.runtime.settings import SettingsError
from sluice.tasks.installation.joining import Membership, join_once
from sluice.tasks.task_sender import TaskSender, open_sender
from sluice.worker.beat_metrics import Lead, LeaderCollector, LeaderReader
from sluice.worker.schedule import Periodic, Timetable

log = structlog.get_logger("sluice.beat")

MAX_INTERVAL_SECONDS = 1.0  # the longest time until a beat detects the end of the leading beat


class SluiceScheduler(Scheduler):  # type: ignore[misc]
    """Beat's loop with Sluice's own schedule. Celery's schedule depends on the machine's clock and on a file.

    If several beats run, the beat that holds a lock in Postgres schedules tasks. The lock ends with the
    connection that holds it.
    """

    max_interval = MAX_INTERVAL_SECONDS

    def __init__(
        self, app: Celery, *args: Any, clock: Callable[[], float] = time.monotonic, **kwargs: Any
    ) -> None:
        self._lead = Lead.FOLLOWS
        self._endpoint = MetricsEndpoint(app.sluice_settings)
        self._metrics = LeaderCollector(LeaderReader(app.sluice_settings), lead=lambda: self._lead)
        self._membership: Membership | None = None
        self._made_sender: TaskSender | None = None
        self._refusal: str | None = None
        self._timetable = Timetable()
        self._clock = clock
        self._pace = LogPace()
        super().__init__(app, *args, **kwargs)
        self._session: Session | None = None

    def setup_schedule(self) -> None:
        """Opens the metrics' port. Raises SystemExit.

        Celery calls this method only in the process that will run the loop.
        """
        try:
            self._endpoint.open([self._metrics])
        except SettingsError as error:
            raise SystemExit(str(error)) from error

    def tick(self, *_: Any, **__: Any) -> float:
        """Runs one turn of beat's loop. Returns the seconds until the next turn. Raises SystemExit."""
        touch_health(self.app.conf.sluice_health_file)
        if not self._try_join() or not self._try_lead():
            return MAX_INTERVAL_SECONDS
        try:
            for one in self._timetable.due(self._clock()):
                self._publish(one)
        except redis.ResponseError as error:
            refused.note(error, lambda: self._sender().redis)
            return MAX_INTERVAL_SECONDS
        except (redis.RedisError, OSError) as error:
            if self._pace.allows("redis"):
                log.warning("nothing is scheduled: Redis unavailable", error=error)
            return MAX_INTERVAL_SECONDS
        return min(MAX_INTERVAL_SECONDS, self._timetable.seconds_left(self._clock()))

    def close(self) -> None:
        """Releases the lock and the metrics' port."""
        self._endpoint.close()
        self._metrics.close()
        if self._membership is not None:
            self._membership.leave()
        if self._session is not None:
            self._session.close()
        super().close()
        if self._refusal is not None:
            # After a SystemExit in `tick`, Celery exits with code 0. After a SystemExit in `close`, Celery
            # exits with code 1.
            raise SystemExit(self._refusal)

    def _publish(self, one: Periodic) -> None:
        """Publishes a task.

        If a message of the task already waits, the task stays due and is tried again soon. Therefore a list
        without workers does not grow, and a run is only delayed for a moment.
        """
        sender = self._sender()
        waits = sender.is_waiting(one.task, one.queue)
        if not waits:
            sender.send(one.task, one.queue)
        self._timetable.postpone(one, self._clock() + (MAX_INTERVAL_SECONDS if waits else one.seconds))

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
            self._refuse(str(error))
        except psycopg2.Error as error:
            if not allows_waiting_at_start(error):
                self._refuse(describe_refusal(error))
            if self._pace.allows("postgres"):
                log.warning("waiting for Postgres", error=error)
            return False
        process_health.has_joined = True
        return True

    def _refuse(self, reason: str) -> NoReturn:
        log.error("beat refused", reason=reason)
        self._refusal = f"Beat refused: {reason}"
        raise SystemExit(self._refusal)

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
            if whose_fault(error) is not Fault.SURROUNDINGS:
                raise
            log.warning("nothing is scheduled: Postgres unavailable", error=error)
        leads = self._lead is Lead.LEADS
        if leads != led:
            log.info("this beat leads" if leads else "this beat no longer leads")
        return leads
