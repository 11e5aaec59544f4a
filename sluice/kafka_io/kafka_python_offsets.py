"""Reads the offset ranges of partitions with kafka-python, by one request per leader and topic."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError, NodeNotReadyError
from kafka.protocol.consumer import OffsetSpec

from sluice.kafka_io.kafka_errors import ClientError, judge_error
from sluice.kafka_io.kafka_python_mends import RETRY_SECONDS, NoteError, client_error
from sluice.kafka_io.log_range import LogRange
from sluice.runtime.backoff import Backoffs
from sluice.runtime.place import Place

# Each request to a leader that does not answer blocks the loop until its time-out. This is the longest pause
# between such requests.
UNANSWERED_SECONDS = 60.0


class LeaderOffsets:
    """Reads offset ranges. An error of one topic or leader does not affect the other ones."""

    def __init__(self, consumer: Any, note: NoteError, *, timeout_ms: int) -> None:
        self._cluster, self._manager = consumer._cluster, consumer._manager
        self._fetcher = consumer._fetcher
        self._note = note
        self._timeout_seconds = timeout_ms / 1_000
        self._unanswered: Backoffs[Place] = Backoffs(max_seconds=UNANSWERED_SECONDS)

    def measure(self, places: Iterable[Place]) -> dict[Place, LogRange]:
        """Returns the ranges of the partitions whose leaders answer."""
        now = time.monotonic()
        leaders: dict[int, dict[str, list[TopicPartition]]] = {}
        for place in places:
            leader = self._cluster.leader_for_partition(TopicPartition(*place))
            if leader is not None and leader >= 0 and self._unanswered.allows(place, now):
                leaders.setdefault(leader, {}).setdefault(place[0], []).append(TopicPartition(*place))
        if not leaders:
            return {}
        starts, ends = self._manager.run(self._ask, leaders)
        found = {
            (place.topic, place.partition): LogRange(starts[place].offset, ends[place].offset)
            for place in starts.keys() & ends.keys()
        }
        for place in found:
            self._unanswered.note_success(place)
        return found

    async def _ask(self, leaders: Mapping[int, Mapping[str, list[TopicPartition]]]) -> list[dict[Any, Any]]:
        found: dict[Any, dict[Any, Any]] = {OffsetSpec.EARLIEST: {}, OffsetSpec.LATEST: {}}
        asked = [
            self._manager.call_soon(self._ask_leader, leader, topics, found)
            for leader, topics in leaders.items()
        ]
        for future in asked:
            await future
        return list(found.values())

    async def _ask_leader(
        self, leader: int, topics: Mapping[str, list[TopicPartition]], found: dict[Any, dict[Any, Any]]
    ) -> None:
        # Requests are sent one after the other, because kafka-python allows only five in flight per
        # connection.
        deadline = time.monotonic() + self._timeout_seconds
        for places in topics.values():
            for spec, offsets in found.items():
                try:
                    answer, unanswered = await self._send(leader, spec, places, deadline)
                except KafkaError as error:
                    self._note_unanswered(places, client_error(error))
                    break
                offsets.update(answer)
                if unanswered:
                    detail = "the broker that leads the partition returned no offsets"
                    self._note_unanswered(unanswered, judge_error("OFFSET_NOT_AVAILABLE", detail))

    async def _send(self, leader: int, spec: Any, places: Iterable[TopicPartition], deadline: float) -> Any:
        wanted = dict.fromkeys(places, (spec, -1))
        while True:
            sent = self._manager.call_soon(self._fetcher._send_list_offsets_request, leader, wanted)
            try:
                return await self._manager.wait_for(sent, max(0.0, deadline - time.monotonic()) * 1_000)
            except NodeNotReadyError:
                # kafka-python raises this if other requests are in flight, or if it is not connected yet.
                if time.monotonic() >= deadline:
                    raise
            await self._manager._net.sleep(RETRY_SECONDS)

    def _note_unanswered(self, places: Iterable[TopicPartition], error: ClientError) -> None:
        for place in places:
            self._unanswered.note_failure((place.topic, place.partition), time.monotonic())
            self._note(error._replace(topic=place.topic, partition=place.partition, of_group=False))
