"""Erases permanently everything that Sluice stores about one entity."""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from psycopg2 import IntegrityError

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.admin.erased_logs import LogEnds, ReadLogEnds
from sluice.admin.erased_tables import choose_tables, delete_rows
from sluice.admin.erased_texts import (
    clear_event_ids,
    erase_settled_calls,
    json_text,
    mention_pattern,
    replace_mentions,
    without_key,
)
from sluice.admin.operation_wait import NotYet, refused_if_queues_are_held, until_possible
from sluice.admin.rebuild.generation_locks import copying
from sluice.db.admin import erasing
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.apply import guard
from sluice.db.connection import Session
from sluice.db.delivery.progress import read_routing
from sluice.db.projections import generation_lanes
from sluice.db.projections.generations import read_projection_snapshot
from sluice.db.records import LetterState, Outcome
from sluice.runtime.fault_points import faults
from sluice.runtime.terminal_text import counted, plural
from sluice.tasks.apply.erasures import ERASED_CALL, hash_key
from sluice.tasks.events.identity import read_key
from sluice.tasks.events.routing import queue_name, shard_of
from sluice.tasks.fold.registry import Registry

DRAIN_SECONDS = 1.0  # while the queue is locked
POLL_SECONDS = 0.02
ADVICE = (
    "Outgoing events are sent while beat and a worker on relay,maintenance run (`sluice outbox ls`), calls"
    " are made while a worker on effects runs (`sluice effects ls`)"
)
NOT_SEARCHED = (
    "records in Kafka, including the records that Sluice sent: a topic keeps them until its retention ends, a"
    " tombstone compacts them, or `kafka-delete-records` removes them",
    "messages in Redis: they contain records that are not applied yet, and each message is removed when"
    " a worker reads it",
    "rows, letters, calls and outgoing events of other entities that mention this entity",
    "tables that Sluice does not write, logs of processes, backups and the write-ahead log of Postgres",
    "hashes of events, of their data and of calls: they stay, so that Sluice detects repeats",
)


@dataclass
class Erased:
    """The result of an erasure, or of its dry run. Does not contain the key."""

    entity: str
    erased: str
    """A keyed hash that stands for the key."""
    rows: dict[str, int] = field(default_factory=dict)
    """Table → rows that were deleted, emptied or rewritten."""
    not_searched: list[str] = field(default_factory=list)
    """Sentences on the places that may still name the entity."""

    def document(self) -> dict[str, Any]:
        """Returns the document for --json."""
        return asdict(self)


class _DryRun(Exception):
    """Raised to roll back the transaction of a dry run."""


def require_entity(session: Session, registry: Registry, entity: str, key: str) -> None:
    """Raises OperationRefused for an entity type or a key that no event can have."""
    if read_routing(session, entity) is None:
        known = ", ".join(sorted(registry.entities)) or "none"
        raise OperationRefused(f"there is no entity type {entity}; the declared entity types are: {known}")
    try:
        found = read_key(key.encode())
    except UnicodeEncodeError:
        found = None
    if found != key:
        raise OperationRefused(
            "no entity has this key: a key is UTF-8, without NUL, and has 255 characters at most"
        )


def erase(
    session: Session,
    registry: Registry,
    read_ends: ReadLogEnds,
    entity: str,
    key: str,
    decision: Decision,
    *,
    tables: Sequence[str] = (),
    dry_run: bool = False,
    patience_seconds: float = 30.0,
    waiting: Callable[[str], object] = lambda _: None,
) -> Erased:
    """Erases one entity: first, in one transaction, all rows that may still change; then the settled rows.

    Can be killed anywhere and repeated; rows that an earlier run erased are not counted again. `tables`
    are further tables with rows of the key. Waits for outgoing events and calls. If it raises
    OperationRefused, nothing was erased.
    """
    require_entity(session, registry, entity, key)
    erasure = _Erasure(session, registry, read_ends, entity, key, decision, tables, dry_run=dry_run)
    with refused_if_queues_are_held(entity), ExitStack() as held:
        # A copy of a table that began before the erasure would restore erased rows.
        for projection in sorted(read_projection_snapshot(session).live):
            held.enter_context(copying(session, projection))
        found = until_possible(erasure.attempt, patience_seconds, waiting=waiting)
    erasure.erase_settled(found)
    return found


class _Erasure:
    """One erasure. It is retried until all events of the entity are sent and no call is running."""

    def __init__(
        self,
        session: Session,
        registry: Registry,
        read_ends: ReadLogEnds,
        entity: str,
        key: str,
        decision: Decision,
        tables: Sequence[str],
        *,
        dry_run: bool,
    ) -> None:
        self._session = session
        self._registry = registry
        self._read_ends = read_ends
        self._entity, self._key = entity, key
        self._decision = decision
        self._further = tables
        self._dry_run = dry_run
        self._newest_outgoing: int | None = erasing.read_newest_outgoing(session)
        self._erasure_key = b""
        self._erased_at: Any = None

    def attempt(self) -> Erased:
        """Erases in one transaction. Raises NotYet, without effect, while an event or a call waits."""
        routing = read_routing(self._session, self._entity)
        assert routing is not None
        queue = queue_name(self._entity, shard_of(self._key.encode(), routing[0]))
        # Waits without the lock. If the relay does not run, the queue must continue.
        self._require_sent(queue, self._newest_outgoing)
        reached = erasing.read_reached(self._session, self._entity)
        topics = {one.topic for one in reached} | set(self._registry.topics_by_entity().get(self._entity, ()))
        ends = self._read_ends(sorted(topics))
        found: Erased | None = None
        try:
            with self._session.transaction():
                self._erasure_key = erasing.lock_erasure_key(self._session, secrets.token_bytes(32))
                if not guard.lock_queue(self._session, queue):
                    raise OperationRefused(f"queue {queue} has no row: run `sluice init`")
                if read_routing(self._session, self._entity) != routing:
                    raise NotYet(f"entity type {self._entity} was re-routed during the erasure", "Try again")
                self._newest_outgoing = erasing.read_newest_outgoing(self._session)
                self._require_drained(queue)
                self._require_calls_settled()
                found = self._erase(queue, topics, ends)
                faults.reach("erase.before_commit")
                if self._dry_run:
                    raise _DryRun
        except _DryRun:
            assert found is not None
            # The key of the hash may be new in this transaction, and was then rolled back.
            found.erased = ""
        except IntegrityError as error:
            raise OperationRefused(f"{self._needed_by(error)}: nothing was erased") from error
        assert found is not None
        return found

    def erase_settled(self, found: Erased) -> None:
        """Erases rows that no longer change, a range of pages at a time. Can be killed and repeated."""
        faults.reach("erase.committed")
        found.rows["executed_side_effects"] = erase_settled_calls(
            self._session, self._erasure_key, self._entity, self._key, self._erased_at, dry_run=self._dry_run
        )
        found.rows["event ids"] = clear_event_ids(
            self._session, self._entity, self._key, dry_run=self._dry_run
        )

    def _require_sent(self, queue: str, newest: int | None) -> None:
        unsent = erasing.read_unsent(self._session, self._entity, queue, newest)
        if unsent.events:
            raise NotYet(
                f"{counted(unsent.events, 'outgoing event')} of queue {unsent.queue}"
                f" {plural(unsent.events, 'is', 'are')} not sent, the first is"
                f" {unsent.first_id} for topic {unsent.topic}",
                ADVICE,
            )

    def _require_drained(self, queue: str) -> None:
        """Waits until the outgoing events of the last batches are sent, while the queue is locked."""
        until = time.monotonic() + DRAIN_SECONDS
        while True:
            try:
                return self._require_sent(queue, None)
            except NotYet:
                if time.monotonic() >= until:
                    raise
            time.sleep(POLL_SECONDS)

    def _require_calls_settled(self) -> None:
        calls = erasing.read_unsettled_calls(self._session, self._entity, self._key)
        if not calls:
            return
        said = ", ".join(f"{count} {state} of effect {effect}" for effect, state, count in calls)
        if any(state == "uncertain" for _, state, _ in calls):
            raise OperationRefused(
                f"calls of this entity are not settled ({said}): nothing was erased; first settle each"
                ' uncertain one by `sluice effects settle KEY --as failed --reason "…"` (or `--as succeeded`)'
            )
        raise NotYet(f"calls of this entity are not settled ({said})", ADVICE)

    def _erase(self, queue: str, topics: set[str], ends: LogEnds) -> Erased:
        session, entity, key = self._session, self._entity, self._key
        log_ends = self._measure(topics, ends)
        key_hash = hash_key(self._erasure_key, entity, key)
        mark = f"{ERASED_CALL}{key_hash.hex}"
        tables = choose_tables(session, self._registry, entity, key, self._further)
        found = Erased(entity, mark, not_searched=[*tables.not_searched, *NOT_SEARCHED])
        self._lock_generations(queue)
        found.rows = dict(delete_rows(session, tables, key))
        found.rows["dead_letters"] = self._erase_letters()
        found.rows |= erasing.delete_traces(session, entity, key, tables.projections, json_text(key))
        found.rows |= replace_mentions(session, entity, key, mark)
        self._erased_at = erasing.insert_erasure(session, entity, key_hash, as_json(log_ends))
        pattern = mention_pattern(key)
        decision = self._decision._replace(reason=without_key(self._decision.reason, pattern, mark))
        details = {"rows": found.rows, "not_searched": tables.not_searched}
        insert_audits(session, decision, [(f"{entity}/{mark}", as_json(details))])
        return found

    def _measure(self, topics: set[str], ends: LogEnds) -> dict[str, dict[int, int]]:
        """Returns topic id → partition → the first offset that is not erased. It is above all
        applied offsets.
        """
        log_ends: dict[str, dict[int, int]] = {}
        for topic_id, partitions in ends.values():
            log_ends[topic_id] = dict(partitions)
        for one in erasing.read_reached(self._session, self._entity):
            if one.topic not in topics:
                raise NotYet(f"a bridge began to read topic {one.topic} during the erasure", "Try again")
            of_topic = log_ends.setdefault(one.topic_id, {})
            if one.partition is not None and one.offset is not None:
                of_topic[one.partition] = max(of_topic.get(one.partition, 0), one.offset)
        return log_ends

    def _lock_generations(self, queue: str) -> None:
        """Locks the generations. Chunks that are reading these records end first, and later chunks
        see the erasure.
        """
        reached = erasing.read_reached(self._session, self._entity)
        places = sorted((one.topic, one.partition) for one in reached if one.partition is not None)
        snapshot = read_projection_snapshot(self._session)
        for synced in snapshot.synced if places else ():
            generation = (synced.projection, synced.generation)
            if snapshot.live[synced.projection] == synced.generation:
                # The generation was stopped. A lane of it without a row received events until now.
                generation_lanes.keep_live_places(self._session, *generation, queue)
            generation_lanes.lock_lanes(self._session, *generation, queue, places)

    def _erase_letters(self) -> int:
        letters = erasing.empty_letters(self._session, self._entity, self._key)
        never_applied = [
            one.outcome in (Outcome.DEAD, Outcome.WAITING) and one.state != LetterState.DONE
            for one in letters
        ]
        outcomes = [Outcome.ERASED.value if never else None for never in never_applied]
        erasing.mark_erased(self._session, letters, outcomes)
        moves = Counter(
            (one.topic, one.partition, one.outcome)
            for one, never in zip(letters, never_applied, strict=True)
            if never
        )
        for (topic, partition, outcome), count in sorted(moves.items()):
            guard.move_counts(self._session, topic, partition, outcome, Outcome.ERASED, count)
        return len(letters)

    def _needed_by(self, error: IntegrityError) -> str:
        table, constraint = error.diag.table_name, error.diag.constraint_name
        return (
            f"rows of table {table} refer to a row of this entity (constraint {constraint}); delete them, or"
            " erase their entities first"
        )
