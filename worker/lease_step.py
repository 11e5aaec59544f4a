"""A worker without a list of queues takes its share, and gives it back: a step of Celery's consumer."""

import time
from typing import Any

import structlog
from celery import bootsteps
from celery.concurrency.solo import TaskPool
from celery.exceptions import WorkerShutdown
from celery.worker.consumer import Consumer

from sluice.db.connection import Session
from sluice.db.delivery.leases import LEASE_SETTINGS
from sluice.worker.lease_thread import LeaseKeeper, View
from sluice.worker.queue_subscription import Consuming

log = structlog.get_logger("sluice.leases")

TICK_SECONDS = 0.25  # how soon a queue that is given back is seen to be quiet, if nothing else is done
DRAIN_SECONDS = 5.0  # at the end: Redis may not answer


class LeaseStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Consumes the queues that the keeper holds; included only where no list of queues was given."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Consumer, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._keeper: LeaseKeeper | None = None
        self._consuming: Consuming | None = None

    def include_if(self, consumer: Consumer) -> bool:
        """See above. Raises SystemExit for a pool that would apply several batches of a queue at once."""
        if not consumer.app.sluice_shares_queues:
            return False
        if not isinstance(consumer.pool, TaskPool):
            raise SystemExit(
                "A worker without -Q shares the queues, and does one batch at a time: start it with -P solo,"
                " or name its queues with -Q."
            )
        return True

    def start(self, consumer: Consumer) -> None:
        """After every connect: what is held is consumed again, once the keeper says that it is still held."""
        if self._keeper is None:
            self._keeper = self._make_keeper(consumer)
            self._keeper.note_tick(self._keeper.wanted)  # else it would not trust this loop yet
            self._keeper.start()
            keeper = self._keeper
            consumer.app.sluice_metrics.watch_leases(lambda: len(keeper.wanted.queues))
        self._consuming = Consuming(consumer)
        self._tick()
        consumer.timer.call_repeatedly(TICK_SECONDS, self._tick)

    def stop(self, consumer: Consumer) -> None:
        """At the end, and when the broker is lost."""
        consuming, self._consuming = self._consuming, None
        if self._keeper is None or consuming is None:
            return
        # What the next connection would begin to consume by itself.
        consumer.app.amqp.queues.deselect(consuming.queues)
        if consumer.connection is None:
            # Nothing can be popped any more. What is held stays so for a while: the broker may be back soon.
            log.info("queues left", queues=sorted(consuming.queues), why="the broker is away")
            self._keeper.note_tick(View(self._keeper.wanted.version, frozenset()))
            return
        self._drain(consumer, consuming)
        self._keeper.stop()

    def terminate(self, _: Consumer) -> None:
        """At once; what was popped comes back when the queue is taken by another."""
        self._consuming = None
        if self._keeper is not None:
            self._keeper.stop()

    def _make_keeper(self, consumer: Consumer) -> LeaseKeeper:
        url = consumer.app.sluice_settings.database_url.get_secret_value()
        return LeaseKeeper(
            Session(url, application_name="sluice leases", settings=LEASE_SETTINGS),
            node=consumer.hostname,
            activity=consumer.app.sluice_activity,
            wanted_changed=lambda: consumer.hub.call_soon(self._tick),
        )

    def _tick(self) -> None:
        keeper, consuming = self._keeper, self._consuming
        if keeper is None or consuming is None:
            return
        if keeper.has_ended:
            log.error("the thread of the leases ended: so does this worker")
            raise WorkerShutdown(1)
        wanted = keeper.wanted
        _adjust(consuming, wanted.queues)
        keeper.note_tick(View(wanted.version, consuming.queues))

    def _drain(self, consumer: Consumer, consuming: Consuming) -> None:
        """The loop goes round until the BRPOP under way has returned, and what it brought is applied."""
        deadline = time.monotonic() + DRAIN_SECONDS
        try:
            _adjust(consuming, frozenset())
            while consuming.queues and time.monotonic() < deadline:
                consumer.hub.run_once()
                _adjust(consuming, frozenset())
        except consumer.connection_errors as error:
            log.warning("not all queues could be given back in order", error=str(error))


def _adjust(consuming: Consuming, wanted: frozenset[str]) -> None:
    before = consuming.queues
    consuming.adjust(wanted)
    if given := before - consuming.queues:
        log.info("queues left", queues=sorted(given), why="given back")
    if taken := consuming.queues - before:
        log.info("queues taken", queues=sorted(taken))
