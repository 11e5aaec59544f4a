"""Publishes the outbox: sends waiting rows in order, and deletes rows that the broker acknowledged.

Delivery is at-least-once: after a crash between the acknowledgement and COMMIT the relay sends the same rows
again, with the same ids. Several relays may run at the same time: a lock gives each queue to one relay until
its transaction ends.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from sluice.db.connection import Reconnects, Session
from sluice.db.records import WaitingRow
from sluice.db.sending import relay as outbox
from sluice.kafka_io.producer import AWAY_TEXTS, NO_ANSWER, Producer
from sluice.runtime.backoff import Backoff
from sluice.runtime.fault_points import faults
from sluice.runtime.log_pace import LogPace
from sluice.runtime.repeat_filter import AWAY
from sluice.tasks.installation import formats
from sluice.tasks.outbox.outbox_page import OutboxPage, ids_by_queue, sent_through
from sluice.tasks.outbox.outgoing_record import outgoing_record

log = structlog.get_logger("sluice.relay")

PAGE_ROWS = 2_000  # of all queues together; sending takes some milliseconds, so locks are held briefly
LEAST_PAGE_ROWS = 100  # per queue, even with many queues
# The locks of the queues are held while the relay sends a page. It sends records for HAND_SECONDS, and waits
# for answers until FLUSH_SECONDS are over. Postgres would end the transaction after 10 s.
HAND_SECONDS = 1.0
FLUSH_SECONDS = 5.0
POLL_SECONDS = 0.1
HINT_SECONDS = 5.0  # how often hints are written and read again
MAX_AWAY_SECONDS = 10.0  # longest pause between two attempts at a topic that does not answer


@dataclass(frozen=True)
class Relayed:
    """The numbers of records that one run sent, that were refused, and that were left."""

    sent: int = 0
    refused: int = 0
    left: int = 0
    """Number of records that stay in the outbox and are sent later."""


class Relay:
    """One relay, with its hints and the backoff of each topic. Several relays may run at the same time."""

    def __init__(
        self,
        session: Session,
        producer: Producer[WaitingRow],
        *,
        source: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`source` is the CloudEvents source of rows that were stored without one."""
        self._session = session
        self._producer = producer
        self._source = source
        self._clock = clock
        self._pace = LogPace(clock=clock)
        self._sent_through: dict[str, int] = {}
        self._reconnects = Reconnects(session)
        self._hints_read_at = self._hints_saved_at = float("-inf")
        self._topics: defaultdict[str, Backoff] = defaultdict(lambda: Backoff(max_seconds=MAX_AWAY_SECONDS))

    def run_once(self) -> Relayed:
        """Sends one page in one transaction. Raises errors of Postgres; the rows are then sent again."""
        self._refresh_hints()
        now = self._clock()
        away = [topic for topic, backoff in self._topics.items() if not backoff.allows(now)]
        with self._session.transaction():
            locked = outbox.lock_waiting(self._session, self._sent_through)
            if not locked:
                return Relayed()
            rows = outbox.read_page(
                self._session,
                {queue: self._sent_through[queue] for queue in locked},
                without_topics=away,
                limit=max(LEAST_PAGE_ROWS, PAGE_ROWS // len(locked)),
                newest_format=formats.NEWEST_FORMAT,
            )
            newer = outbox.read_lowest_newer(self._session, locked, formats.NEWEST_FORMAT)
            self._log_newer(newer)
            if not rows:
                return Relayed()
            faults.reach("relay.claimed")
            page = OutboxPage(rows)
            self._flush(page)
            faults.reach("relay.acknowledged")
            acknowledged = ids_by_queue(page.acknowledged)
            self._delete(acknowledged)
            self._list_refused(page)
            # The page omits rows of unavailable topics, so their lowest id is not known.
            hidden = {queue: _lowest(refused, newer.get(queue)) for queue, refused in locked.items()}
            read = {} if away else ids_by_queue(rows)
            found = {
                queue: sent_through(
                    self._sent_through[queue], ids, acknowledged.get(queue, ()), hidden[queue]
                )
                for queue, ids in read.items()
            }
            self._save_hints(found)
        faults.reach("relay.deleted")
        self._sent_through.update(found)
        self._note_topics(page)
        sent, refused = len(page.acknowledged), len(page.refused)
        return Relayed(sent, refused, len(rows) - sent - refused)

    def _flush(self, page: OutboxPage) -> None:
        """Sends the rows that may be in flight and waits for all answers, for at most FLUSH_SECONDS."""
        began = self._clock()
        in_flight: Counter[str] = Counter()  # by topic

        def hand(row: WaitingRow) -> None:
            in_flight[row.topic] += 1
            self._producer.send(row, outgoing_record(row, self._source))
            faults.reach("relay.handed")

        def wait() -> None:
            while any(in_flight.values()) and self._clock() - began < FLUSH_SECONDS:
                for answer in self._producer.poll(POLL_SECONDS):
                    in_flight[answer[0].topic] -= 1
                    following = page.settle(*answer)
                    if following is not None and self._clock() - began < HAND_SECONDS:
                        hand(following)

        try:
            for row in page.heads:
                hand(row)
            wait()
            for row in page.take_refused():
                if self._clock() - began >= HAND_SECONDS:
                    break  # The refusal is not confirmed; the next run sends this row again.
                hand(row)
                wait()
        finally:
            if unanswered := +in_flight:
                # The producer must not send these records again after, or together with, later records.
                self._producer.close()
                log.warning("producer replaced: records without an answer", records=unanswered.total())
                for topic in unanswered:
                    page.away.setdefault(topic, NO_ANSWER)

    def _delete(self, acknowledged: Mapping[str, Sequence[int]]) -> None:
        for queue, ids in sorted(acknowledged.items()):
            outbox.delete_sent(self._session, queue, ids)

    def _list_refused(self, page: OutboxPage) -> None:
        outbox.insert_refusals(self._session, page.refused)
        for row, error in page.refused:
            log.error(
                "record refused permanently; its key is held until `sluice outbox retry QUEUE ID --reason"
                ' "…"` or `sluice outbox drop QUEUE ID --reason "…"`',
                queue=row.queue,
                id=row.id,
                topic=row.topic,
                key=row.key,
                error=error,
            )

    def _log_newer(self, newer: Mapping[str, int]) -> None:
        for queue, number in newer.items():
            if self._pace.allows(queue):
                log.warning(
                    "outgoing events of a newer format left to a newer relay",
                    queue=queue,
                    first_id=number,
                    reads=formats.NEWEST_FORMAT,
                )

    def _refresh_hints(self) -> None:
        """Reads the hints again if they are old, or after a reconnect: another server may be behind."""
        now = self._clock()
        if self._reconnects.note():
            self._sent_through, self._hints_read_at = {}, float("-inf")
        if now - self._hints_read_at < HINT_SECONDS:
            return
        for queue, saved in outbox.read_sent_through(self._session).items():
            self._sent_through[queue] = max(saved, self._sent_through.get(queue, 0))
        # Set only after the read, so that a failed read is repeated at once.
        self._hints_read_at = now

    def _save_hints(self, found: dict[str, int]) -> None:
        now = self._clock()
        if found and now - self._hints_saved_at >= HINT_SECONDS:
            outbox.save_sent_through(self._session, found)
            self._hints_saved_at = now

    def _note_topics(self, page: OutboxPage) -> None:
        now = self._clock()
        for topic, error in page.away.items():
            if self._topics[topic].note_failure(now):
                away = {AWAY: "Kafka"} if error in AWAY_TEXTS else {}
                log.warning("topic unavailable; outgoing events held back", topic=topic, error=error, **away)
        if not self._topics:
            return
        for topic in {row.topic for row in page.acknowledged} - page.away.keys():
            if topic in self._topics and self._topics[topic].note_success():
                log.info("topic available again", topic=topic)


def _lowest(*numbers: int | None) -> int | None:
    return min((number for number in numbers if number is not None), default=None)
