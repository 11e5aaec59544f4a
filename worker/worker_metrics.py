"""The metrics of one worker, and the step of Celery's worker that serves them."""

from collections.abc import Callable, Collection
from typing import Any

from celery import bootsteps
from celery.concurrency import prefork

from sluice.db.schema import OUTCOMES
from sluice.runtime import metrics
from sluice.runtime.celery_options import RELAY_QUEUE, SERVICE_QUEUES
from sluice.runtime.dropped_messages import dropped
from sluice.runtime.exposition import Collector, MetricsEndpoint, counter, gauge, histogram
from sluice.runtime.settings import SettingsError
from sluice.tasks.apply.apply import Applied
from sluice.tasks.retention import Purged


class WorkerMetrics:
    """The metrics.

    Only the worker's loop writes them, once per batch or run of the relay, never once per record.
    """

    def __init__(self) -> None:
        self._batch_seconds = histogram(metrics.WORKER_BATCH_SECONDS)
        self._records = counter(metrics.WORKER_RECORDS)
        # The counters are stored, because a look-up by label costs as much as the count itself.
        self._records_of = {outcome: self._records.labels(outcome) for outcome in OUTCOMES}
        self._events_without_id = counter(metrics.WORKER_MISSING_ID_EVENTS)
        self._aborted_batches = counter(metrics.WORKER_ABORTED_BATCHES)
        self._transactions = counter(metrics.WORKER_TRANSACTIONS)
        self._retries = counter(metrics.WORKER_RETRIES)
        self._dropped_messages = counter(metrics.WORKER_DROPPED_MESSAGES)
        dropped.listen(lambda reason: self._dropped_messages.labels(reason).inc())
        self._leased_queues = gauge(metrics.WORKER_LEASED_QUEUES)
        self._sent_records = counter(metrics.RELAY_SENT_RECORDS)
        self._runs = counter(metrics.RELAY_RUNS)
        self._purged_rows = counter(metrics.PURGED_ROWS)
        self._purge_failures = counter(metrics.PURGE_FAILURES)

    def collectors(self, queues: Collection[str], *, shares_queues: bool) -> list[Collector]:
        """Returns the metrics that a worker on these queues writes.

        Omits metrics that would always be zero.
        """
        found: list[Collector] = [self._dropped_messages]
        if shares_queues or not set(SERVICE_QUEUES).issuperset(queues):
            found += [self._batch_seconds, self._records, self._events_without_id, self._aborted_batches]
            found += [self._transactions, self._retries]
        if shares_queues:
            found.append(self._leased_queues)
        if RELAY_QUEUE in queues:
            found += [self._sent_records, self._runs, self._purged_rows, self._purge_failures]
        return found

    def note_batch(self, applied: Applied | None, seconds: float) -> None:
        """Counts a batch that has ended. `applied` is None if the batch was aborted."""
        self._batch_seconds.observe(seconds)
        if applied is None:
            self._aborted_batches.inc()
            return
        for outcome, records in applied.outcomes.items():
            self._records_of[outcome].inc(records)
        for topic, events in applied.without_id.items():
            self._events_without_id.labels(topic).inc(events)
        for way, transactions in applied.ways.items():
            self._transactions.labels(way).inc(transactions)
        for result, attempts in applied.retries.items():
            self._retries.labels(result).inc(attempts)

    def note_sent(self, records: int) -> None:
        """Counts the records that the relay sent."""
        if records:
            self._sent_records.inc(records)

    def note_run(self) -> None:
        """Counts a run of the relay."""
        self._runs.inc()

    def note_purge(self, purged: Purged) -> None:
        """Counts the rows of a finished run of the purge."""
        for kind, rows in purged.gone.items():
            self._purged_rows.labels(kind).inc(rows)
        for kind in purged.failed:
            self._purge_failures.labels(kind).inc()

    def watch_leases(self, count_queues: Callable[[], int]) -> None:
        """Sets the function that returns the number of leased queues.

        Each scrape calls this function in another thread.
        """
        self._leased_queues.set_function(count_queues)


class MetricsStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Serves the metrics from the worker's own process, after its children were forked.

    Only metrics of the parent process are exported. Counters of the children of a prefork pool are not.
    """

    requires = frozenset({"celery.worker.components:Pool"})

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._endpoint: MetricsEndpoint = parent.app.sluice_endpoint

    def start(self, parent: Any) -> None:
        """Opens the metrics' port. Raises SystemExit if that fails."""
        app = parent.app
        shown: list[Collector] = []
        if not isinstance(parent.pool, prefork.TaskPool):
            queues = app.amqp.queues.consume_from
            shown = app.sluice_metrics.collectors(queues, shares_queues=app.sluice_shares_queues)
        try:
            self._endpoint.open(shown)
        except SettingsError as error:
            raise SystemExit(str(error)) from error

    def stop(self, _: Any) -> None:
        """Closes the metrics' port."""
        self._endpoint.close()

    terminate = stop
