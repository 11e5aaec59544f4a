"""Decides how long stored data is kept, and purges it. The first part is pure."""

import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import structlog
from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    ConfigResource,
    ResourceType,
)

from sluice.db.admin import retention
from sluice.db.connection import Session
from sluice.db.errors import needs_new_connection
from sluice.kafka_io.config import LOG_LEVEL_CRITICAL, build_confluent_admin
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.settings import Settings

log = structlog.get_logger("sluice.maintenance")

DAY_SECONDS = 86_400.0
# Some users configure "forever" as the largest integer. Postgres cannot store a time so long ago.
FOR_EVER_SECONDS = 100 * 365 * DAY_SECONDS
MARGIN_SECONDS = DAY_SECONDS  # for records that were read or sent and are still in flight
PAGES = 128  # of the table of identities, per statement; they hold about 5,000 rows
ROWS = 5_000  # per statement, which takes some milliseconds, so no other session waits long
MOST_SECONDS = 20.0  # per run; the worker runs it again if rows are left
ANSWER_SECONDS = 10.0


def identity_seconds(
    *, wanted_seconds: float, topic_retention_seconds: float | None, oldest_parked_seconds: float
) -> float | None:
    """Returns the age at which identities of a topic may be deleted, None for never.

    Identities are kept until Kafka has deleted the records, because a replay or a redrive of a parked entity
    may read a record again. `topic_retention_seconds` is None for a topic that keeps its records
    forever or whose retention is unknown.
    """
    if topic_retention_seconds is None:
        return None
    return max(wanted_seconds, topic_retention_seconds + oldest_parked_seconds + MARGIN_SECONDS)


def retention_seconds(config: Mapping[str, str]) -> float | None:
    """Returns the longest age of a record, from the topic's Kafka configuration; None: forever or unknown.

    Kafka deletes a segment when its newest record is older than `retention.ms`. The oldest record of a
    segment is older by up to `segment.ms` (by default 7 days). Compaction merges segments, so a compacted
    topic has no longest age, even if its policy is also `delete`.
    """
    if config.get("cleanup.policy", "") != "delete":
        return None
    return kept_seconds(config.get("retention.ms"), config.get("segment.ms"))


def kept_seconds(retention_ms: int | str | None, segment_ms: int | str | None) -> float | None:
    """Returns the longest age of a record in a topic without compaction; None: forever or unknown."""
    if retention_ms is None or segment_ms is None or int(retention_ms) < 0:
        return None
    seconds = (int(retention_ms) + int(segment_ms)) / 1000
    return seconds if seconds < FOR_EVER_SECONDS else None


def read_topic_configs(access: KafkaAccess, topics: list[str]) -> dict[str, dict[str, str]]:
    """Returns topic → configuration for existing topics; empty if Kafka does not answer."""
    if not topics:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
    try:
        admin = build_confluent_admin(access, {"log_level": LOG_LEVEL_CRITICAL})
        asked = admin.describe_configs(resources, request_timeout=ANSWER_SECONDS)
    except KafkaException as error:
        log.warning("retention of topics unknown; identities are kept", error=str(error))
        return {}
    found = {}
    for resource, future in asked.items():
        try:
            found[resource.name] = {e.name: e.value for e in future.result(ANSWER_SECONDS).values()}
        except (KafkaException, TimeoutError) as error:
            log.info("retention unknown; identities are kept", topic=resource.name, error=error)
    return found


class Gone(NamedTuple):
    """The number of deleted rows. `more`: a further step may delete more."""

    rows: int
    more: bool


Kinds: TypeAlias = Mapping[str, Callable[[], Gone]]
"""Kind → a step that deletes some rows of the kind in its own transaction."""


class Purged(NamedTuple):
    """Deleted rows by kind, and the kinds that failed. `more`: rows are left, because the time was over."""

    gone: dict[str, int]
    failed: dict[str, Exception]
    more: bool


def purge(
    session: Session,
    settings: Settings,
    configs: Mapping[str, Mapping[str, str]],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Purged:
    """Deletes rows that are old enough, for at most MOST_SECONDS. Idempotent. Raises if Postgres is down."""
    return run_in_turns(kinds_to_purge(session, settings, configs), until=clock() + MOST_SECONDS, clock=clock)


def kinds_to_purge(session: Session, settings: Settings, configs: Mapping[str, Mapping[str, str]]) -> Kinds:
    """Returns the kinds of rows with an age limit. Topics that keep records forever have no such kind."""
    kinds: dict[str, Callable[[], Gone]] = {}
    effects_age = settings.keep_effects_days * DAY_SECONDS
    letters_age = settings.keep_dead_letters_days * DAY_SECONDS
    kinds["calls"] = lambda: _up_to_rows(retention.purge_calls(session, effects_age, ROWS))
    kinds["call arguments"] = lambda: _up_to_rows(retention.empty_calls(session, effects_age, ROWS))
    kinds["dead letters"] = lambda: _up_to_rows(retention.purge_dead_letters(session, letters_age, ROWS))
    kinds["letters of projections"] = lambda: _up_to_rows(
        retention.purge_projection_letters(session, letters_age, ROWS)
    )
    for topic, config in sorted(configs.items()):
        topic_seconds = retention_seconds(config)
        if topic_seconds is not None:
            wanted_seconds = settings.keep_identities_days * DAY_SECONDS
            kinds[f"identities of {topic}"] = IdentityPass(session, topic, topic_seconds, wanted_seconds)
    return kinds


def _up_to_rows(count: int) -> Gone:
    return Gone(count, more=count >= ROWS)


class IdentityPass:
    """One pass over the pages of the table of identities, for one topic.

    A pass begins at a random page. If passes end early because the time is over, they still reach all pages.
    """

    def __init__(self, session: Session, topic: str, topic_seconds: float, wanted_seconds: float) -> None:
        self._session = session
        self._topic = topic
        self._topic_seconds = topic_seconds
        self._wanted_seconds = wanted_seconds
        self._left: deque[range] | None = None

    def __call__(self) -> Gone:
        """Purges the next pages."""
        if self._left is None:
            self._left = page_ranges(retention.count_identity_pages(self._session), random.random())
        age = identity_seconds(
            wanted_seconds=self._wanted_seconds,
            topic_retention_seconds=self._topic_seconds,
            oldest_parked_seconds=retention.read_oldest_parked_seconds(self._session),
        )
        if age is None or not self._left:
            return Gone(0, more=False)
        rows = retention.purge_identities(self._session, self._topic, age, self._left.popleft())
        return Gone(rows, more=bool(self._left))


def page_ranges(pages: int, begin: float) -> deque[range]:
    """Returns all pages of a table in ranges of PAGES. `begin` from 0 to 1 chooses the first range. Pure."""
    found = deque(range(first, first + PAGES) for first in range(0, pages, PAGES))
    found.rotate(-int(begin * len(found)))
    return found


def run_in_turns(kinds: Kinds, *, until: float, clock: Callable[[], float]) -> Purged:
    """Runs one step per kind, again and again, until no rows are left or the time is over.

    A kind that fails is omitted from the rest of this run. Raises if Postgres is down.
    """
    gone: dict[str, int] = {}
    failed: dict[str, Exception] = {}
    left = deque(kinds)
    while left and clock() < until:
        kind = left.popleft()
        try:
            count = kinds[kind]()
        except Exception as error:
            if needs_new_connection(error):
                raise
            failed[kind] = error
            continue
        if count.rows:
            gone[kind] = gone.get(kind, 0) + count.rows
        if count.more:
            left.append(kind)
    # A further run is useful only if there was something to delete.
    return Purged(gone, failed, more=bool(left and gone))
