"""The interface of a Kafka client for the bridge, which has two implementations."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sluice.kafka_io.kafka_errors import ClientError
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place


class ConsumerBroken(Exception):
    """Raised if the client cannot recover: close it and make a new one."""


class BrokersAway(ConsumerBroken):
    """Raised if no broker answers, so that no consumer can be made now."""

    kafka_code = "_TIMED_OUT"


@dataclass(frozen=True)
class TopicFacts:
    """A topic as the client knows it now."""

    topic_id: str
    partitions: int
    leaderless: frozenset[int] = frozenset()
    """The partitions without a leader now, which can be neither read nor measured."""


class Consumer(Protocol):
    """One member of the bridges' group; owned by one thread.

    It decides nothing: it notes changes of the assignment for `take_changes`, and the loop acts on them.
    Any method may raise ConsumerBroken. Positions are never reset automatically.
    """

    def poll(self, timeout_seconds: float) -> dict[Place, list[Record]]:
        """Returns the next records, in offset order per partition; {} after the time-out.

        May return records of partitions that were not seeked since they were assigned.
        """

    def take_changes(self) -> frozenset[Place]:
        """Returns partitions that were assigned, revoked, or lost their position since the last call."""

    def take_truncated(self) -> Mapping[Place, str]:
        """Returns partitions whose log lost records that were read, since the last call → the client's text.

        Records of them that were read or applied since then cannot be trusted.
        """

    def assignment(self) -> frozenset[Place]:
        """Returns the partitions that this member has now."""

    def seek(self, place: Place, offset: int) -> None:
        """Sets the position of the next poll. The caller must ignore records polled before."""

    def position(self, place: Place) -> int | None:
        """Returns the offset after the last record polled or passed; None if it is unknown."""

    def pause_exactly(self, places: Iterable[Place]) -> None:
        """Pauses these assigned partitions, and resumes all others."""

    def paused(self) -> frozenset[Place]:
        """Returns the partitions paused now."""

    def take_readable(self) -> frozenset[Place]:
        """Returns the partitions that a fetch read since the last call, also if it only reached their end."""

    def take_errors(self) -> Sequence[ClientError]:
        """Returns the client's errors since the last call that no other method returns or raises."""

    def log_ranges(self, places: Iterable[Place]) -> dict[Place, LogRange]:
        """Returns the current ranges of the logs. Blocks for one or two round trips.

        Omits partitions that do not exist, have no leader, or for which Kafka does not answer; `take_errors`
        returns the reasons.
        """

    def topics(self) -> Mapping[str, TopicFacts]:
        """Returns the subscribed topics that exist, not older than the newest assignment. Cheap.

        They are also new enough that polled records are of the topic with this id, or of an earlier one.
        docs/design/kafka-client.md has the exception for confluent-kafka.
        """

    def topic_errors(self) -> Mapping[str, ClientError]:
        """Returns the topics that `topics` lacks because Kafka refuses their facts, with the reasons."""

    def brokers_answer(self) -> bool:
        """Returns False if no broker has answered for a while."""

    def commit(self, watermarks: Mapping[Place, int]) -> None:
        """Commits the offsets, only for lag tools. Neither waits nor fails."""

    def close(self) -> None:
        """Closes the client. A dynamic member leaves the group. Idempotent."""
