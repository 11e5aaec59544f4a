"""A step of Celery's consumer.

It consumes the leased queues of a worker that was started without --queues.
"""

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

TICK_SECONDS = 0.25  # an idle worker checks this often if it may cancel a queue that it gives back
DRAIN_SECONDS = 5.0  # the longest time to finish at shutdown; Redis may not answer


class LeaseStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Consumes the queues that the lease thread holds. Not used by a worker with --queues."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Consumer, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._services = consumer.app.sluice_services
        self._lease_thread: LeaseThread | None = None
        self._consuming: QueueSubscription | None = None

    def include_if(self, consumer: Consumer) -> bool:
        """Returns True if the worker shares the queues. Such a worker has the pool "solo"."""
        return bool(consumer.app.sluice_shares_queues)

    def start(self, consumer: Consumer) -> None:
        """Celery calls it after every connect. Consumes the held queues, again after a reconnect."""
        if self._lease_thread is None:
            self._lease_thread = self._make_lease_thread(consumer)
            # The loop must count as responsive at the start.
            self._lease_thread.note_tick(self._lease_thread.wanted)
            self._lease_thread.start()
            lease_thread = self._lease_thread
            consumer.app.sluice_metrics.watch_leases(lambda: len(lease_thread.wanted.queues))
        self._lease_thread.broker_is_away = False
        self._consuming = QueueSubscription(consumer)
        self._tick()
        consumer.timer.call_repeatedly(TICK_SECONDS, self._tick)

    def stop(self, consumer: Consumer) -> None:
        """Celery calls it at shutdown, and when the connection to the broker is lost."""
        consuming, self._consuming = self._consuming, None
        if self._lease_thread is None or consuming is None:
            return
        # The queues are deselected, because the next connection must not consume them without a lease.
        consumer.app.amqp.queues.deselect(consuming.queues)
        if consumer.connection is None:
            # Without a broker no message can be popped. The leases are kept for a while, because the broker
            # may soon be available again.
            log.info("queue leases released", queues=sorted(consuming.queues), why="broker unreachable")
            self._lease_thread.broker_is_away = True
            self._lease_thread.note_tick(View(self._lease_thread.wanted.version, frozenset()))
            return
        self._drain(consumer, consuming)
        self._lease_thread.stop()

    def terminate(self, _: Consumer) -> None:
        """Ends the leases at once.

        The next worker of a queue puts back the queue's messages that are in hand.
        """
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
        """Runs the loop until the pending BRPOP has returned and the popped message is applied."""
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
