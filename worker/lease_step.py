"""A step of Celery's consumer that consumes the leased queues of a worker without a list of queues."""

import time
from typing import Any

import structlog
from celery import bootsteps
from celery.exceptions import WorkerShutdown
from celery.worker.consumer import Consumer

from sluice.db.connection import Session
from sluice.db.delivery.leases import LEASE_SETTINGS
from sluice.worker.lease_thread import LeaseThread, View, stuck_seconds
from sluice.worker.queue_subscription import QueueSubscription

log = structlog.get_logger("sluice.leases")

TICK_SECONDS = 0.25  # the longest time until an idle worker detects that a returned queue is quiet
DRAIN_SECONDS = 5.0  # limit at shutdown, because Redis may not answer


class LeaseStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Consumes the queues that the lease thread holds. Included only if no list of queues was given."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Consumer, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._services = consumer.app.sluice_services
        self._lease_thread: LeaseThread | None = None
        self._consuming: QueueSubscription | None = None

    def include_if(self, consumer: Consumer) -> bool:
        """Returns True if the worker shares queues. Such a worker must have the pool solo."""
        return bool(consumer.app.sluice_shares_queues)

    def start(self, consumer: Consumer) -> None:
        """Runs after every connect. The held queues are consumed again."""
        if self._lease_thread is None:
            self._lease_thread = self._make_lease_thread(consumer)
            self._lease_thread.note_tick(self._lease_thread.wanted)  # so that the loop counts as responsive
            self._lease_thread.start()
            lease_thread = self._lease_thread
            consumer.app.sluice_metrics.watch_leases(lambda: len(lease_thread.wanted.queues))
        self._lease_thread.broker_is_away = False
        self._consuming = QueueSubscription(consumer)
        self._tick()
        consumer.timer.call_repeatedly(TICK_SECONDS, self._tick)

    def stop(self, consumer: Consumer) -> None:
        """Runs at shutdown, and when the broker is lost."""
        consuming, self._consuming = self._consuming, None
        if self._lease_thread is None or consuming is None:
            return
        # Otherwise the next connection would consume these queues without a lease.
        consumer.app.amqp.queues.deselect(consuming.queues)
        if consumer.connection is None:
            # Without a broker no message can be popped. The leases are kept for a while, as it may return.
            log.info("queue leases released", queues=sorted(consuming.queues), why="broker unreachable")
            self._lease_thread.broker_is_away = True
            self._lease_thread.note_tick(View(self._lease_thread.wanted.version, frozenset()))
            return
        self._drain(consumer, consuming)
        self._lease_thread.stop()

    def terminate(self, _: Consumer) -> None:
        """Ends the leases at once. The worker that takes a queue next restores its popped messages."""
        self._consuming = None
        if self._lease_thread is not None:
            self._lease_thread.stop()

    def _make_lease_thread(self, consumer: Consumer) -> LeaseThread:
        url = consumer.app.sluice_settings.database_url.get_secret_value()
        return LeaseThread(
            Session(url, application_name="sluice leases", settings=LEASE_SETTINGS),
            node=consumer.hostname,
            activity=consumer.app.sluice_activity,
            wanted_changed=lambda: consumer.hub.call_soon(self._tick),
            declared=consumer.app.sluice_services.registry.topics_by_entity(),
            yields=consumer.app.sluice_yields,
            stuck_after=stuck_seconds(consumer.app.sluice_settings.handler_seconds),
        )

    def _tick(self) -> None:
        lease_thread, consuming = self._lease_thread, self._consuming
        if lease_thread is None or consuming is None:
            return
        if lease_thread.has_ended:
            log.error("lease thread ended unexpectedly; stopping the worker")
            raise WorkerShutdown(1)
        wanted = lease_thread.wanted
        before = consuming.queues
        _adjust(consuming, wanted.queues)
        for queue in before - consuming.queues:
            self._services.forget_queue(queue)
        lease_thread.note_tick(View(wanted.version, consuming.queues))

    def _drain(self, consumer: Consumer, consuming: QueueSubscription) -> None:
        """Runs the loop until the pending BRPOP has returned and its message is applied."""
        deadline = time.monotonic() + DRAIN_SECONDS
        try:
            _adjust(consuming, frozenset())
            while consuming.queues and time.monotonic() < deadline:
                consumer.hub.run_once()
                _adjust(consuming, frozenset())
        except consumer.connection_errors as error:
            log.warning("some queues were not released cleanly", error=str(error))


def _adjust(consuming: QueueSubscription, wanted: frozenset[str]) -> None:
    before = consuming.queues
    consuming.adjust(wanted)
    if given := before - consuming.queues:
        log.info("queue leases released", queues=sorted(given), why="given back")
    if taken := consuming.queues - before:
        log.info("queue leases acquired", queues=sorted(taken))
