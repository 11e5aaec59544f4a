"""Between the live fold and Postgres: identities, effects, letters and rows, loaded and written back."""

from collections.abc import Mapping, Sequence
from uuid import UUID

import msgspec
import psycopg2

from sluice.db.apply import dead_letters, identities, outgoing
from sluice.db.connection import Session
from sluice.db.errors import QUERY_CANCELED
from sluice.db.records import DeadLetterRow, Outcome, ProcessedRow
from sluice.db.values import MAX_ERROR_CHARACTERS, printable
from sluice.kafka_io.bounded_record import bounded, count_bytes
from sluice.runtime.settings import read_source
from sluice.tasks.apply.row_store import AbsentKeyLocks, RowStore
from sluice.tasks.events.flaws import write_flaw
from sluice.tasks.fold.fold import effect_key
from sluice.tasks.fold.fold_state import EventResult, FirstSeen, FoldResult, FoldState
from sluice.tasks.fold.plan import Planned, called_effects
from sluice.tasks.installation.formats import FLAWED_LETTER_FORMAT

KEPT_BYTES = 65_536  # of key and headers of a letter that is stored without its value
NOT_WHOLE = " (Postgres did not store the value in time; `sluice dlq redrive` reads it from Kafka)"


class LetterNotStored(Exception):
    """One dead letter alone took Postgres too long, or too much. It fits without the record's value."""

    def __init__(self, error: psycopg2.Error) -> None:
        super().__init__(str(error))
        self.pgcode = error.pgcode


class FoldIO:
    """The shell around one fold: `load`, then the fold, then `write_back`, in one transaction."""

    def __init__(
        self,
        session: Session,
        entity: str,
        generations: Mapping[str, int],
        redriving: bool = False,
        *,
        locks: AbsentKeyLocks | None = None,
        cut_letters: bool = False,
    ) -> None:
        """`entity` is the entity type of all events, `generations` the live ones; the rest: `BatchWriter`.

        `locks`: those of the transaction. `cut_letters`: letters are stored without their values.
        """
        self._session = session
        self._entity = entity
        self._redriving = redriving
        self._rows = RowStore(session, generations, locks)
        self._cut_letters = cut_letters

    @property
    def written_tables(self) -> set[str]:
        """Names of the tables whose rows `write_back` wrote."""
        return self._rows.written_tables

    def load(self, events: Sequence[Planned]) -> FoldState:
        """Identities, effect keys and locked rows that these events are known to need."""
        memory = FoldState(self._rows.load_row, self._load_effect)
        wanted = list({planned.decoded.identity for planned in events})
        own = {p.decoded.identity: _place(p) for p in events} if self._redriving else {}
        for identity, *where in identities.load_identities(self._session, wanted):
            known = FirstSeen(*where)
            # Its own row says that it died or waits. That is what is to change.
            if own.get(identity) != known[1:]:
                memory.identities[identity] = known
        if not self._redriving:
            of = {p.decoded.entity_key for p in events if p.decoded.entity_key is not None}
            memory.parked = dead_letters.load_parked(self._session, self._entity, sorted(of))
        # Another session may hold what a parked entity needs: its events wait without it.
        fresh = [
            planned
            for planned in events
            if planned.decoded.identity not in memory.identities
            and planned.decoded.entity_key not in memory.parked
        ]
        self._load_effects(fresh, memory)
        memory.rows = self._rows.load(fresh)
        return memory

    def write_back(self, queue: str, memory: FoldState, folded: FoldResult) -> None:
        """Writes all that a fold changed. Raises RowsChanged, or what Postgres refuses.

        Of redriven events it writes no letters and no identities.
        """
        self._rows.write(memory.rows)
        outgoing.insert_outbox(self._session, queue, folded.emits, read_source())
        outgoing.insert_effects(self._session, self._entity, folded.calls)
        outgoing.insert_call_conflicts(self._session, folded.call_conflicts)
        if self._redriving:
            return
        self._write_letters(queue, [s for s in folded.settled if s.error is not None])
        reasons = [(key, printable(reason)[:MAX_ERROR_CHARACTERS]) for key, reason in folded.parked]
        dead_letters.park_entities(self._session, self._entity, queue, reasons)
        new = [processed_row(s, s.outcome) for s in folded.settled if s.outcome is not None and not s.known]
        identities.insert_identities(self._session, new)

    def _write_letters(self, queue: str, settled: Sequence[EventResult]) -> None:
        letters = [_letter(one, cut=self._cut_letters) for one in settled]
        try:
            dead_letters.insert_dead_letters(self._session, queue, self._entity, letters)
        except psycopg2.Error as error:
            if len(letters) == 1 and not self._cut_letters and _is_too_large(error):
                raise LetterNotStored(error) from None
            raise

    def _load_effects(self, events: Sequence[Planned], memory: FoldState) -> None:
        keys = {
            effect_key(run, planned.decoded, ordinal, call)
            for planned in events
            for run, ordinal, call in called_effects(planned)
        }
        if keys:
            memory.effect_keys.update(dict.fromkeys(keys))
            memory.effect_keys.update(outgoing.load_effects(self._session, sorted(keys)))

    def _load_effect(self, key: str) -> UUID | None:
        return outgoing.load_effects(self._session, [key]).get(key)


def _place(planned: Planned) -> tuple[str, int, int]:
    decoded = planned.decoded
    return decoded.topic_id, decoded.partition, decoded.record.offset


def processed_row(settled: EventResult, outcome: Outcome) -> ProcessedRow:
    """What is remembered of an event."""
    decoded = settled.planned.decoded
    return ProcessedRow(
        decoded.identity,
        decoded.event_id,
        decoded.data_hash,
        outcome,
        decoded.topic,
        decoded.topic_id,
        decoded.partition,
        decoded.record.offset,
    )


def _is_too_large(error: psycopg2.Error) -> bool:
    code = error.pgcode or ""
    return code == QUERY_CANCELED or code[:2] in ("53", "54")


def _letter(settled: EventResult, *, cut: bool) -> DeadLetterRow:
    decoded, outcome, error = settled.planned.decoded, settled.outcome, settled.error
    assert outcome is not None
    assert error is not None
    text, record = error.text, decoded.record
    if cut and record.value:
        record = bounded(record, min(KEPT_BYTES, count_bytes(record) - 1))
        text = f"{text[: MAX_ERROR_CHARACTERS - len(NOT_WHOLE)]}{NOT_WHOLE}"
    headers = [(printable(name), None if value is None else value.hex()) for name, value in record.headers]
    return DeadLetterRow(
        decoded.topic,
        decoded.topic_id,
        decoded.partition,
        record.offset,
        record.timestamp_ms,
        None if record.key is None else record.key.hex(),
        None if record.value is None else record.value.hex(),
        msgspec.json.encode(headers).decode(),
        decoded.entity_key,
        decoded.identity,
        decoded.event_id,
        decoded.type,
        decoded.source,
        outcome,
        error.error_class,
        text,
        None if record.flaw is None else write_flaw(record.flaw),
        1 if record.flaw is None else FLAWED_LETTER_FORMAT,
        error.traceback or None,
    )
