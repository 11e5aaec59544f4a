"""The bridge as a member of its group: opens, renews and closes the consumer."""

import uuid
from collections.abc import Callable

import structlog

from sluice.bridge.inflight import Inflight
from sluice.bridge.orphaned_partitions import EmptyAssignment, OrphanedPartitions
from sluice.bridge.partition_starter import PartitionStarter
from sluice.bridge.progress_store import ProgressStore
from sluice.kafka_io.consumer import Consumer, ConsumerBroken
from sluice.runtime.place import Place, place_names

log = structlog.get_logger("sluice.bridge")

LOOK_SECONDS = 5.0  # partitions that nobody reads are looked for this often
REJOIN_SECONDS = 120.0  # where that changes nothing, it would only stop all others again and again


class GroupMember:
    """Owns the consumer. `make_consumer` gets its name in the group, after a restart the same one."""

    def __init__(
        self,
        make_consumer: Callable[[str], Consumer],
        store: ProgressStore,
        inflight: Inflight,
        starter: PartitionStarter,
    ) -> None:
        self._make_consumer = make_consumer
        self._store = store
        self._inflight = inflight
        self._starter = starter
        self.consumer: Consumer | None = None
        self._instance: int | None = None
        self._instance_is_sure = False
        self._newcomer = ""
        self._orphaned, self._empty = OrphanedPartitions(), EmptyAssignment()
        self._looked_at = self._rejoined_at = float("-inf")

    def claim_instance(self) -> None:
        """Takes the lowest free number of the group. Raises ProgressStoreUnavailable."""
        self._instance = self._store.claim_instance()
        self._instance_is_sure = True

    def doubt_instance(self) -> None:
        """Notes an outage of Postgres: another bridge may take the number meanwhile."""
        self._instance_is_sure = False

    def keep_instance(self) -> None:
        """Claims a doubted number again, or closes the consumer, which another bridge would fence.

        Raises ProgressStoreUnavailable.
        """
        if self._instance_is_sure or self._instance is None:
            return
        self._instance_is_sure = self._store.keep_instance(self._instance)
        if not self._instance_is_sure:
            log.warning("instance number taken by another bridge", instance=self._instance)
            self.drop()

    def open(self) -> Consumer:
        """Makes a consumer under the number claimed last. Raises ConsumerBroken."""
        self.consumer = self._make_consumer(f"bridge-{self._instance}{self._newcomer}")
        log.info("consumer opened", instance=self._instance)
        return self.consumer

    def drop(self) -> None:
        """Closes the consumer and forgets what is held. Idempotent."""
        for place in list(self._inflight.partitions):
            self._inflight.forget(place)
        consumer, self.consumer = self.consumer, None
        if consumer is not None:
            try:
                consumer.close()
            except ConsumerBroken as error:
                log.warning("consumer not closed cleanly", error=str(error))

    def check_assignment(self, consumer: Consumer, now: float) -> None:
        """Raises ConsumerBroken if this bridge has been without a partition for too long."""
        if self._empty.is_overdue(consumer.assignment(), consumer.topics(), self._instance, now):
            raise ConsumerBroken("no partition was assigned to this bridge")

    def rejoin_if_unread(self, consumer: Consumer, now: float) -> None:
        """Rejoins under a new name, at which the group assigns all partitions; the old session runs out.

        Raises ProgressStoreUnavailable.
        """
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        self._orphaned.note(self._starter.find_unread(consumer), now)
        places: list[Place] = [] if self._instance is None else self._orphaned.overdue(now, self._instance)
        if places and now - self._rejoined_at >= REJOIN_SECONDS:
            log.warning(
                "partitions that no bridge reads: joining the group anew", partitions=place_names(places)
            )
            self._newcomer = f"-{uuid.uuid4().hex[:8]}"
            self._rejoined_at = now
            self.drop()
