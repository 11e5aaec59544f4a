"""The bridge as a member of its group. Opens, replaces and closes the consumer."""

import uuid
from collections.abc import Callable, Iterable

import structlog

from sluice.bridge.bridge_health import BridgeHealth
from sluice.bridge.inflight import Inflight
from sluice.bridge.orphaned_partitions import EmptyAssignment, OrphanedPartitions
from sluice.bridge.progress_store import ProgressStore
from sluice.bridge.read_report import UnreadPartitions
from sluice.kafka_io.consumer import BrokersAway, Consumer, ConsumerBroken
from sluice.runtime.backoff import Backoff
from sluice.runtime.log_pace import LogPace
from sluice.runtime.place import Place, place_names

log = structlog.get_logger("sluice.bridge")

REPLACE_SECONDS = 5.0  # the longest pause between consumers that break
STEADY_SECONDS = 10.0  # a consumer that has worked for this time resets the backoff
REJOIN_SECONDS = 120.0  # long, because each rejoin stops all other members for a moment


class GroupMember:
    """Owns the consumer. `make_consumer` gets the name of the consumer in the group.

    After a restart, a bridge uses the same name again.
    """

    def __init__(
        self,
        make_consumer: Callable[[str], Consumer],
        store: ProgressStore,
        inflight: Inflight,
        clock: Callable[[], float],
    ) -> None:
        self._make_consumer = make_consumer
        self._store = store
        self._inflight = inflight
        self.health = BridgeHealth()
        self.consumer: Consumer | None = None
        self._instance: int | None = None
        self._instance_is_sure = False
        self._newcomer = ""
        self._orphaned, self._empty = OrphanedPartitions(), EmptyAssignment()
        self._rejoined_at = self._opened_at = float("-inf")
        self._backoff = Backoff(max_seconds=REPLACE_SECONDS)
        self._pace = LogPace(clock=clock)

    def claim_instance(self) -> None:
        """Takes the lowest free number of the group. Raises ProgressStoreUnavailable."""
        self._instance = self._store.claim_instance()
        self._instance_is_sure = True

    def doubt_instance(self) -> None:
        """Notes an outage of Postgres.

        During an outage, another bridge may take the number of this bridge.
        """
        self._instance_is_sure = False

    def keep_instance(self) -> None:
        """After an outage of Postgres, claims the number again.

        If another bridge has taken the number, closes the consumer, before Kafka fences it. Raises
        ProgressStoreUnavailable.
        """
        if self._instance_is_sure or self._instance is None:
            return
        self._instance_is_sure = self._store.keep_instance(self._instance)
        if not self._instance_is_sure:
            log.warning("instance number taken by another bridge", instance=self._instance)
            self.drop()

    def may_open(self, now: float) -> bool:
        """Returns False during the pause after a broken consumer."""
        return self._backoff.allows(now)

    def open(self, now: float) -> Consumer:
        """Makes a consumer whose name contains the claimed number. Raises ConsumerBroken."""
        self._opened_at = now
        self.consumer = self._make_consumer(f"bridge-{self._instance}{self._newcomer}")
        log.info("consumer opened", instance=self._instance)
        return self.consumer

    def is_healthy(self, now: float) -> bool:
        """Returns False if a restart of this process may help. Logs this at most once a minute."""
        complaint = self.health.complaint(now)
        if complaint and self._pace.allows(complaint):
            log.error("bridge unhealthy: a restart may help", reason=complaint)
        return not complaint

    def note_broken(self, error: ConsumerBroken, now: float) -> None:
        """Notes an error from which the consumer does not recover, and closes the consumer."""
        if self._pace.allows(str(error)):
            log.warning("consumer replaced", error=error)
        self._backoff.note_failure(now)
        self.health.note_consumer(is_broken=not isinstance(error, BrokersAway), now=now)
        self.drop()

    def drop(self) -> None:
        """Closes the consumer and drops all held records. Idempotent."""
        for place in list(self._inflight.partitions):
            self._inflight.forget(place)
        consumer, self.consumer = self.consumer, None
        if consumer is not None:
            try:
                consumer.close()
            except ConsumerBroken as error:
                log.warning("consumer not closed cleanly", error=error)

    def check_assignment(self, consumer: Consumer, now: float) -> None:
        """Raises ConsumerBroken if this bridge has been without a partition for too long."""
        if self._empty.is_overdue(consumer.has_partitions(), consumer.topics(), self._instance, now):
            reason = "no partition was assigned to this bridge"
            raise ConsumerBroken(reason) if consumer.brokers_answer() else BrokersAway(reason)

    def note_unread(self, consumer: Consumer, unread: UnreadPartitions, now: float) -> None:
        """Updates the health of this bridge.

        Leaves the group and joins again if partitions have had no bridge for long. The bridge joins under a
        new name, because a new member makes the group assign all partitions again.
        """
        if now - self._opened_at >= STEADY_SECONDS:
            self._backoff.note_success()
            self.health.note_consumer(is_broken=False, now=now)
        unowned = bool(unread.never_read or unread.abandoned) and consumer.brokers_answer()
        self.health.note_partitions(assigned=consumer.has_partitions(), unowned=unowned, now=now)
        self._rejoin_if_overdue(unread.never_read, now)

    def _rejoin_if_overdue(self, unread: Iterable[Place], now: float) -> None:
        self._orphaned.note(unread, now)
        places: list[Place] = [] if self._instance is None else self._orphaned.overdue(now, self._instance)
        if places and now - self._rejoined_at >= REJOIN_SECONDS:
            log.warning("partitions without a bridge; rejoining the group", partitions=place_names(places))
            self._newcomer = f"-{uuid.uuid4().hex[:8]}"
            self._rejoined_at = now
            self.drop()
