"""What the bridge asks of a Kafka client, so that the client can be another one."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sluice.kafka_io.kafka_errors import ClientError
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.record_types import Record
from sluice.runtime.place import Place


class ConsumerBroken(Exception):
    """An error the client does not recover from: close it and make a new one."""


class BrokersAway(ConsumerBroken):
    """No broker answers, so that no consumer can be made for now."""

    kafka_code = "_TIMED_OUT"


@dataclass(frozen=True)
class TopicFacts:
    """A topic as the client knows it now."""

    topic_id: str
    partitions: int
    leaderless: frozenset[int] = frozenset()
    """The partitions that no broker leads now: they can be neither read nor measured."""


class Consumer(Protocol):
    """One member of the bridges' group; owned by one thread.

    Nothing here decides: changes of the assignment are noted for `take_changes` and acted on by the loop.
    Any method may raise ConsumerBroken. Positions never reset by themselves.
    """

    def poll(self, timeout_seconds: float) -> dict[Place, list[Record]]:
        """The next records, in offset order per partition; {} when the time is over.

        May hold records of partitions that were not seeked since they were assigned.
        """

    def take_changes(self) -> frozenset[Place]:
        """Partitions that came, went, or lost their position since the last call."""

    def take_truncated(self) -> Mapping[Place, str]:
        """Partitions whose log lost records that were read, since the last call → the client's text.

        Nothing read or applied of them since then can be trusted.
        """

    def assignment(self) -> frozenset[Place]:
        """The partitions this member has now."""

    def seek(self, place: Place, offset: int) -> None:
        """The next poll reads from here; nothing polled before counts any more."""

    def position(self, place: Place) -> int | None:
        """Offset after the last record polled or passed over; None if it is not known."""

    def pause_exactly(self, places: Iterable[Place]) -> None:
        """These assigned partitions are paused, all others are not."""

    def paused(self) -> frozenset[Place]:
        """The partitions paused now."""

    def take_readable(self) -> frozenset[Place]:
        """Returns the partitions that a fetch read since the last call, be it that their end was reached."""

    def take_errors(self) -> Sequence[ClientError]:
        """Returns what the client reported since the last call and no other method returns or raises."""

    def log_ranges(self, places: Iterable[Place]) -> dict[Place, LogRange]:
        """Returns what the logs hold now; blocks for a round trip or two.

        Partitions that are not there or have no leader are missing, and so are those that Kafka does not
        answer for: take_errors returns why.
        """

    def topics(self) -> Mapping[str, TopicFacts]:
        """The subscribed topics that exist, no older than the newest assignment; cheap.

        So young, too, that what was polled is of the topic with this id, or of an earlier one: with
        confluent-kafka but for what docs/design/kafka-client.md leaves open.
        """

    def topic_errors(self) -> Mapping[str, ClientError]:
        """Returns why Kafka refuses the facts of topics that `topics` lacks: they may exist."""

    def brokers_answer(self) -> bool:
        """Returns False if no broker has answered for a while."""

    def commit(self, watermarks: Mapping[Place, int]) -> None:
        """Tells Kafka, for lag tools only; neither waits nor fails."""

    def close(self) -> None:
        """Leaves the group if it is a dynamic member. May run twice."""
