"""The services of one worker process. Each service is made at its first use, after a pool has forked."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cached_property
from uuid import uuid4

import structlog

from sluice.db.admin.open_issues import read_open_issues
from sluice.db.admin.retention import PURGE_PLANS
from sluice.db.apply.retries import read_due_queues
from sluice.db.connection import BATCH_PLANS, QUEUE_PLANS, Session
from sluice.db.delivery.progress import read_queue_names
from sluice.db.delivery.undeclared import note_undeclared
from sluice.db.projections.generation_lag import read_lagging
from sluice.db.records import WaitingRow
from sluice.kafka_io.producer import ConfluentProducer
from sluice.runtime.celery_options import (
    APPLY_TASK,
    EFFECT_TASK,
    EFFECTS_QUEUE,
    EXPIRE_CLAIMS_TASK,
    PURGE_TASK,
    REBUILD_QUEUE,
    REBUILD_TASK,
    RELAY_TASK,
    SELF_CHECK_TASK,
    START_REBUILDS_TASK,
    START_RETRIES_TASK,
    SluiceCelery,
)
from sluice.runtime.gc_tuning import tune_gc
from sluice.runtime.handler_watch import main_watch, timed
from sluice.runtime.place import Place
from sluice.runtime.settings import Settings
from sluice.tasks.apply.apply import Applier
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.apply.chunks import session_settings
from sluice.tasks.apply.handler_notes import NOTE_SETTINGS, HandlerNotes
from sluice.tasks.effects.dispatcher import Dispatcher
from sluice.tasks.effects.executor import Executor, expire_claims
from sluice.tasks.fold.registry import HandlersRefused, Registry, collect_handlers
from sluice.tasks.outbox.relay import Relay
from sluice.tasks.outbox.relay_wakeup import RelayWakeup
from sluice.tasks.rebuild.rebuild import Rebuilder
from sluice.tasks.retention import purge, read_topic_configs
from sluice.tasks.task_sender import TaskSender, open_sender
from sluice.worker.outages import Outages
from sluice.worker.relay_loop import RelayLoop
from sluice.worker.task_thread import TaskThread, end_threads
from sluice.worker.worker_metrics import WorkerMetrics

log = structlog.get_logger("sluice.worker")


class WorkerProcess:
    """Handlers, sessions and the objects that use them. A process connects only as its tasks require."""

    def __init__(self, settings: Settings, app: SluiceCelery) -> None:
        self._settings = settings
        self._app = app
        self._metrics: WorkerMetrics = app.sluice_metrics
        self._sessions: list[Session] = []
        self._relaying, self._maintaining = TaskThread("relay"), TaskThread("maintenance")
        self._purging = TaskThread("purge")
        self._threads = (self._relaying, self._maintaining, self._purging)

    @cached_property
    def registry(self) -> Registry:
        """The handlers, which are collected at the start. Raises SystemExit if the handlers are refused."""
        try:
            return collect_handlers(self._settings.handlers)
        except HandlersRefused as error:
            log.error("handlers refused", reason=str(error))
            raise SystemExit(f"Handlers refused: {error}") from error

    def queue_names(self) -> list[str]:
        """Returns the queues in Postgres, because re-routings are not in the code."""
        declared = {f"{e.name}.{n}" for e in self.registry.entities.values() for n in range(e.shards)}
        session = Session(self._url, application_name="sluice worker")
        try:
            return sorted(declared | set(read_queue_names(session)))
        except Exception as error:
            # Postgres may start later than the worker. Then the worker uses the declared queues until its
            # next start.
            log.warning("queues not read from Postgres", error=error)
            return sorted(declared)
        finally:
            session.close()

    def apply(self, queue: str, slices: list[Slice]) -> None:
        """Applies one batch. Never returns the outcome: the bridge reads it from Postgres."""
        records = sum(len(piece.records) for piece in slices)
        with self._app.sluice_activity.batch(queue, records), timed(queue), self._notes.batch(queue):
            applied = self._applier.apply(queue, slices)
        self._metrics.note_batch(applied, self._app.sluice_activity.last.seconds)
        if applied is not None and applied.undeclared:
            self._app.sluice_yields.note(queue, topics=applied.undeclared)
        if applied is not None and applied.outgoing:
            self._wakeup.notify()

    def forget_queue(self, queue: str) -> None:
        """Notes that this worker no longer serves the queue."""
        self._notes.forget(queue)

    def relay(self) -> None:
        """Submits a run of the relay. The run dispatches calls that are due, and publishes the outbox."""
        self._relaying.submit(RELAY_TASK, self._relay_now)

    def _relay_now(self) -> None:
        with self._outages(self._relay_session, "relay"):
            self._metrics.note_run()
            RelayLoop(self._wakeup, send=self._send, dispatch=self._dispatch).run()

    def run_effect(self, effect_key: str) -> None:
        """Makes one call, if it is due."""
        with self._outages(self._effects_session, "effect"):
            self._executor.run(effect_key)

    def rebuild(self, projection: str, generation: int, place: Place) -> None:
        """Runs one turn of a rebuild on one partition."""
        with self._outages(self._rebuild_session, "rebuild"):
            self._rebuilder.run(projection, generation, place)

    @contextmanager
    def _watched(self, turn: str) -> Iterator[None]:
        """Limits the time of the handlers in a turn of a rebuild. Notes the event whose handlers run."""
        try:
            with timed(turn), self._notes.batch(turn):
                yield
        finally:
            # The note is removed, because another worker may run the next turn on the partition.
            self._notes.forget(turn)

    def start_rebuilds(self) -> None:
        """Submits the task that publishes a rebuild message for each partition that lags."""
        self._maintaining.submit(START_REBUILDS_TASK, self._start_rebuilds_now)

    def _start_rebuilds_now(self) -> None:
        # Messages are published only if the rebuild workers are idle. A turn does not publish the next turn
        # itself: if a partition had two messages, it would have two messages forever.
        with self._outages(self._maintenance_session, "rebuilds"):
            lagging = read_lagging(self._maintenance_session)
            if lagging and self._sender.count_waiting(REBUILD_QUEUE) == 0:
                for what in lagging:
                    self._sender.send(REBUILD_TASK, REBUILD_QUEUE, what)

    def start_retries(self) -> None:
        """Submits the task that starts due retries of idle queues."""
        self._maintaining.submit(START_RETRIES_TASK, self._start_retries_now)

    def _start_retries_now(self) -> None:
        with self._outages(self._maintenance_session, "retries"):
            for queue in read_due_queues(self._maintenance_session):
                # If a queue has messages, its due events are retried after its next batch.
                if self._sender.count_waiting(queue) == 0:
                    self._sender.send(APPLY_TASK, queue, (queue, []))

    def expire_claims(self) -> None:
        """Submits the task that ends expired attempts of calls and measures waits of undeclared work."""
        self._maintaining.submit(EXPIRE_CLAIMS_TASK, self._expire_claims_now)

    def _expire_claims_now(self) -> None:
        with self._outages(self._maintenance_session, "leases"):
            expire_claims(self._maintenance_session, self.registry)
            note_undeclared(self._maintenance_session, EFFECTS_QUEUE)

    def purge(self) -> None:
        """Submits the deletion of rows that are past their retention."""
        self._purging.submit(PURGE_TASK, self._purge_now)

    def _purge_now(self) -> None:
        configs = read_topic_configs(self._settings.kafka_access, sorted(self.registry.topics))
        # The purge runs every hour, and opens a connection for each run.
        session = Session(self._url, application_name="sluice purge", plans=PURGE_PLANS)
        with closing(session), self._outages(session, "purge"):
            purged = purge(session, self._settings, configs)
            log.info("purged", **{kind.replace(" ", "_"): count for kind, count in purged.gone.items()})
            self._metrics.note_purge(purged)
            for kind, error in purged.failed.items():
                log.error("rows past their retention not deleted", kind=kind, error=str(error).strip())
            if purged.more:
                self.purge()

    def check_self(self) -> None:
        """Submits the self-check. The self-check logs the open issues in one line."""
        self._maintaining.submit(SELF_CHECK_TASK, self._check_self_now)

    def _check_self_now(self) -> None:
        with self._outages(self._maintenance_session, "self-check"):
            open_issues = read_open_issues(self._maintenance_session)
            say = log.warning if open_issues.need_an_operator else log.info
            say("self-check", **open_issues._asdict())

    def is_stuck(self) -> bool:
        """Returns True if a thread of this process runs one task for too long."""
        return any(thread.is_stuck() for thread in self._threads)

    def close(self) -> None:
        """Ends the threads and the connections. Idempotent."""
        end_threads(self._threads)
        for session in self._sessions:
            session.close()

    @property
    def _url(self) -> str:
        return self._settings.database_url.get_secret_value()

    def _open(self, name: str, plans: Mapping[str, str]) -> Session:
        # In sessions with batch plans, handlers run inside of transactions, so time-outs depend on the limit
        # of handlers.
        settings = session_settings(self._settings.handler_seconds) if plans is BATCH_PLANS else {}
        session = Session(self._url, application_name=f"sluice {name}", plans=plans, settings=settings)
        self._sessions.append(session)
        tune_gc()
        return session

    @cached_property
    def _applier(self) -> Applier:
        return Applier(self._open("worker", BATCH_PLANS), self.registry)

    @cached_property
    def _notes(self) -> HandlerNotes:
        session = Session(self._url, application_name="sluice notes", settings=NOTE_SETTINGS)
        self._sessions.append(session)
        # A new id, because the children of a prefork pool share the id of the worker's row.
        notes = HandlerNotes(session, uuid4(), notes_handlers=not self._app.sluice_is_supervised)
        main_watch.journal = notes
        return notes

    @cached_property
    def _wakeup(self) -> RelayWakeup:
        return RelayWakeup(self._sender)

    @cached_property
    def _sender(self) -> TaskSender:
        membership = self._app.sluice_membership
        return open_sender(self._settings, membership.installation, membership.ring)

    @cached_property
    def _relay_session(self) -> Session:
        return self._open("relay", QUEUE_PLANS)

    @cached_property
    def _relay(self) -> Relay:
        producer: ConfluentProducer[WaitingRow] = ConfluentProducer(self._settings.kafka_access)
        source = self._settings.source or self._app.sluice_membership.installation.group
        return Relay(self._relay_session, producer, source=source)

    def _send(self) -> int:
        sent = self._relay.run_once().sent
        self._metrics.note_sent(sent)
        return sent

    def _dispatch(self) -> None:
        # Records are sent even if the dispatch of calls fails.
        with self._outages(self._relay_session, "dispatch"):
            self._dispatcher.run_once()

    @cached_property
    def _dispatcher(self) -> Dispatcher:
        return Dispatcher(
            self._relay_session,
            self.registry,
            publish=self._publish_call,
            count_waiting=lambda: self._sender.count_waiting(EFFECTS_QUEUE),
        )

    @cached_property
    def _effects_session(self) -> Session:
        return self._open("effects", QUEUE_PLANS)

    @cached_property
    def _executor(self) -> Executor:
        return Executor(self._effects_session, self.registry)

    @cached_property
    def _rebuild_session(self) -> Session:
        return self._open("rebuild", BATCH_PLANS)

    @cached_property
    def _rebuilder(self) -> Rebuilder:
        return Rebuilder(
            self._rebuild_session,
            self.registry,
            self._settings.kafka_access,
            max_record_bytes=self._settings.max_record_bytes,
            watched=self._watched,
        )

    @cached_property
    def _maintenance_session(self) -> Session:
        return self._open("maintenance", QUEUE_PLANS)

    def _outages(self, session: Session, what: str) -> Outages:
        return Outages(session, what, lambda: self._sender.redis)

    def _publish_call(self, effect_key: str) -> None:
        self._sender.send(EFFECT_TASK, EFFECTS_QUEUE, (effect_key,))
