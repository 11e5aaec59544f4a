"""The interface of the bridge's Kafka client. Two classes implement it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sluice.kafka_io.kafka_errors import ClientError
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.record_types import Record
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.place import Place


class ConsumerBroken(Exception):
    """Raised if the client cannot recover. The caller closes the client and makes a new one."""


class BrokersAway(ConsumerBroken):
    """Raised if no broker answers, so that no consumer can be made now."""

    kafka_code = "_TIMED_OUT"


@dataclass(frozen=True)
class TopicFacts:
    """The newest facts about a topic that the client received."""

    topic_id: str
    partitions: int
    """The number of all partitions, of all shares. Producers place keys by it."""
    leaderless: frozenset[int] = frozenset()
    """The partitions of the share that have no leader now. They can be neither read nor measured."""
    share: PartitionShare = WHOLE

    @property
    def numbers(self) -> range:
        """The partitions of the share."""
        return self.share.numbers(self.partitions)


class Consumer(Protocol):
    """One member of the bridges' group; owned by one thread.

    The consumer only notes changes of the assignment for `take_changes`; the bridge's loop acts on these
    changes. Any method may raise ConsumerBroken. Positions are never reset automatically.
    """

    def poll(self, timeout_seconds: float) -> dict[Place, list[Record]]:
        """Returns the next records, in offset order per partition; {} after the time-out.

        Waits up to `timeout_seconds` for the first record. Two polls that return records are at least
        GATHER_SECONDS apart, if the client can gather more records in this time.
        May return records of partitions that were assigned and for which `seek` was not called yet.
        """

    def take_changes(self) -> frozenset[Place]:
        """Returns partitions that were assigned, revoked, or lost their position since the last call."""

    def take_truncated(self) -> Mapping[Place, str]:
        """Returns partitions whose logs lost records after these were read → the client's text.

        Contains the losses that were noted since the last call. Records of these partitions that were read or
        applied since the loss cannot be trusted.
        """

    def assignment(self) -> frozenset[Place]:
        """Returns the partitions of the share that this member has now. No other partition is fetched."""

    def has_partitions(self) -> bool:
        """Returns True if the group has assigned a partition of any share to this member."""

    def seek(self, place: Place, offset: int) -> None:
        """Sets the position of the next poll.

        The caller must ignore records that were polled before the seek.
        """

    def position(self, place: Place) -> int | None:
        """Returns the offset behind the last record that was polled or passed over; None if unknown."""

    def pause_exactly(self, places: Iterable[Place]) -> None:
        """Pauses these assigned partitions, and resumes all others."""

    def paused(self) -> frozenset[Place]:
        """Returns the partitions that are paused now."""

    def take_readable(self) -> frozenset[Place]:
        """Returns the partitions that were fetched since the last call, even if they had no more records."""

    def take_errors(self) -> Sequence[ClientError]:
        """Returns the client's errors since the last call, if no other method returns or raises them."""

    def log_ranges(self, places: Iterable[Place]) -> dict[Place, LogRange]:
        """Returns the current ranges of the logs. Blocks for one or two round trips.

        Omits partitions that do not exist, that have no leader, or for which Kafka does not answer.
        `take_errors` returns the reasons.
        """

    def topics(self) -> Mapping[str, TopicFacts]:
        """Returns the facts of the subscribed topics that exist. Sends no request.

        The facts are not older than the newest assignment. Polled records belong to the topic with the id in
        the facts, or to an earlier topic of this name. docs/design/kafka-client.md has the exception for
        confluent-kafka.
        """

    def topic_errors(self) -> Mapping[str, ClientError]:
        """Returns the topics for which Kafka refuses to return facts, with the reasons."""

    def brokers_answer(self) -> bool:
        """Returns False if no broker has answered for a while."""

    def commit(self, watermarks: Mapping[Place, int]) -> None:
        """Commits the offsets, only for tools that show the lag. Neither waits nor fails."""

    def close(self) -> None:
        """Closes the client. A dynamic member leaves the group. Idempotent."""
