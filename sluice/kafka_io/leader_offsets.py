"""Reads the offset ranges of partitions with confluent-kafka, by one request per leader."""

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeAlias

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

from sluice.kafka_io.kafka_errors import ClientError, judge_error
from sluice.kafka_io.log_range import LogRange
from sluice.runtime.backoff import Backoffs
from sluice.runtime.place import Place

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

REQUEST_TIMEOUT_SECONDS = 5.0
# Each request to a leader that does not answer blocks the loop until its time-out. This is the longest pause
# between such requests.
UNANSWERED_SECONDS = 60.0

_START_AND_END = (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
_NO_PARTITION = frozenset({"_UNKNOWN_PARTITION", "UNKNOWN_TOPIC_OR_PART", "_NOENT"})

_Answers: TypeAlias = dict[TopicPartition, Future[Any]]


class LeaderOffsets:
    """Reads offset ranges; owned by one thread.

    An error of one partition or leader does not affect the others.
    """

    def __init__(self, admin: "AdminClient", note: Callable[[ClientError], None]) -> None:
        """`note` is called with each error. A partition that does not exist is not an error."""
        self._admin = admin
        self._note = note
        self._unanswered: Backoffs[Place] = Backoffs(max_seconds=UNANSWERED_SECONDS)

    def measure(self, places: Iterable[Place], leaders: Mapping[Place, int]) -> dict[Place, LogRange]:
        """Returns the ranges of the partitions whose leaders answer. Raises KafkaException."""
        now = time.monotonic()
        # Requests are per leader: if one leader is away, librdkafka answers for no partition of a request.
        wanted: dict[int, list[TopicPartition]] = {}
        for place in places:
            leader = leaders.get(place)
            if leader is not None and self._unanswered.allows(place, now):
                wanted.setdefault(leader, []).append(TopicPartition(*place))
        asked = [[self._ask(led, spec) for spec in _START_AND_END] for led in wanted.values()]
        found: dict[Place, LogRange] = {}
        for answers in asked:
            starts, ends = (self._take(answer, now) for answer in answers)
            found |= {place: LogRange(starts[place], ends[place]) for place in starts.keys() & ends.keys()}
        for place in found:
            self._unanswered.note_success(place)
        return found

    def _ask(self, partitions: Iterable[TopicPartition], spec: OffsetSpec) -> _Answers:
        return self._admin.list_offsets(
            dict.fromkeys(partitions, spec),
            isolation_level=IsolationLevel.READ_COMMITTED,
            request_timeout=REQUEST_TIMEOUT_SECONDS,
        )

    def _take(self, answers: _Answers, now: float) -> dict[Place, int]:
        found: dict[Place, int] = {}
        for partition, future in answers.items():
            place = (partition.topic, partition.partition)
            try:
                found[place] = known_offset(future.result(REQUEST_TIMEOUT_SECONDS + 1))
            except (KafkaException, TimeoutError) as error:
                noted = client_error(error, place)
                if noted.code not in _NO_PARTITION:
                    self._note(noted)
                    self._unanswered.note_failure(place, now)
        return found


def known_offset(answer: Any) -> int:
    """Returns the offset of one answer. Raises KafkaException if the answer has no offset."""
    # If the leader of a partition has just been lost, librdkafka 2.16 returns the offset -1001 and no error.
    # Used as the end of the log, this offset would mean that the log lost all of its records.
    offset: int = answer.offset
    if offset < 0:
        raise KafkaException(KafkaError(KafkaError.OFFSET_NOT_AVAILABLE))
    return offset


def client_error(error: KafkaException | TimeoutError, place: Place | None = None) -> ClientError:
    """Converts the error of a request. `place` is the partition for which the request was."""
    if isinstance(error, TimeoutError):
        return judge_error("_TIMED_OUT", "Kafka does not answer in time", place=place)
    cause = error.args[0]
    return judge_error(cause.name(), cause.str(), fatal=cause.fatal(), place=place)
