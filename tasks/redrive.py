"""Applies again, with the current code, a dead letter and the letters that wait behind it."""

from collections import Counter
from collections.abc import Callable, Sequence

from sluice.db.apply import dead_letters, guard, identities, retries
from sluice.db.apply.dead_letters import Letter
from sluice.db.apply.retries import Retry
from sluice.db.connection import Session
from sluice.db.errors import Fault, needs_new_connection, whose_fault
from sluice.db.records import LetterState, Outcome
from sluice.kafka_io.whole_record import ReadWhole
from sluice.runtime.fault_points import faults
from sluice.tasks.apply.batch_writer import BatchWriter
from sluice.tasks.apply.death_log import describe_place
from sluice.tasks.apply.erasures import Erasures
from sluice.tasks.apply.fold_io import processed_row
from sluice.tasks.apply.generation_writer import GenerationWriter
from sluice.tasks.events.decode import Decoded
from sluice.tasks.fold.fold_state import EventResult
from sluice.tasks.fold.plan import Planned, plan_event
from sluice.tasks.fold.registry import Registry
from sluice.tasks.letter_records import readable_letters
from sluice.tasks.letter_redriver import LETTERS, LetterRedriver, Redriven


class Redriver(LetterRedriver):
    """Redrives dead letters and the letters that wait behind them."""

    def __init__(self, session: Session, registry: Registry, read_whole: ReadWhole) -> None:
        super().__init__(session, registry, read_whole)
        self._generation_writer = GenerationWriter(session, registry)
        self._erasures = Erasures(session)
        self._skipping = [topic.name for topic in registry.topics.values() if topic.on_failure == "skip"]

    def redrive_once(self, entity: str, key: str) -> Redriven:
        """Redrives the entity's oldest letters in one transaction. Idempotent, and safe to kill.

        Unparks the entity in the transaction after which no letter is dead or waiting. Raises
        DeploymentBroken, and errors of Postgres that persist.
        """
        return self._provide(
            lambda: self._retry(entity, lambda singly: self._redrive(entity, key, singly=singly))
        )

    def redrive_letter(self, entity: str, letter_id: int, key: str | None = None) -> Redriven:
        """Redrives one letter whose record key names no entity, or a conflict of the entity `key`.

        Otherwise as `redrive_once`. No other letter waits behind such a letter.
        """

        def attempt(singly: bool) -> Redriven:
            redriven = Redriven()
            with self._session.transaction():
                queue = self._lock(entity, key or "")
                letter = dead_letters.lock_letter(self._session, letter_id)
                if letter is not None and _is_open(letter):
                    self._settle(queue, entity, self._choose([letter]), redriven, singly=singly)
                    if key is None:
                        retries.move_retry(self._session, entity, None, goes_on=False)
            return redriven

        return self._provide(lambda: self._retry(entity, attempt))

    def drop(self, entity: str, key: str, letter_id: int) -> bool:
        """Drops the entity's first letter permanently. Returns False if it is no longer the first letter.

        The caller then redrives the rest.
        """

        def attempt(_singly: bool) -> bool:
            with self._session.transaction():
                self._lock(entity, key)
                letters = dead_letters.lock_letters(self._session, entity, key, 1)
                if not letters or letters[0].id != letter_id:
                    return False
                dead_letters.finish_letters(self._session, [letter_id], LetterState.DROPPED)
                retries.move_retry(self._session, entity, key, goes_on=False)
                return True

        return self._retry(entity, attempt)

    def retry_waiting(self, retry: Retry, limit: int, begin: Callable[[], None]) -> Redriven:
        """Tries up to `limit` waiting letters: a letter that was set aside, and the letters behind it.

        Calls `begin` when the queue is locked. If servers or locks hold up a letter, commits the letters
        before it. Raises the error if this is the first letter, and the errors of `redrive_once`. The caller
        then tries again later.
        """
        if limit > 1:
            try:
                return self._try_waiting(retry, limit, begin, singly=False)
            except Exception as error:
                broken = whose_fault(error) is Fault.DEPLOYMENT and not self._registry.revisions
                if needs_new_connection(error) or broken:
                    raise
        return self._without_broken(lambda: self._try_waiting(retry, limit, begin, singly=True))

    def _try_waiting(self, retry: Retry, limit: int, begin: Callable[[], None], singly: bool) -> Redriven:
        redriven = Redriven()
        with self._session.transaction():
            queue = self._lock(retry.entity, retry.key or "")
            begin()
            letters = readable_letters(self._lock_waiting(retry, limit))
            if letters:
                self._settle(queue, retry.entity, letters, redriven, singly=singly)
            self._release(queue, retry.entity, retry.key, redriven)
            faults.reach("retry.before_commit")
        faults.reach("retry.committed")
        return redriven

    def bury_waiting(self, retry: Retry, error_class: str, error_text: str) -> bool:
        """Makes a letter that was set aside a dead letter. Returns False if the letter no longer waits."""
        redriven = Redriven()
        with self._session.transaction():
            queue = self._lock(retry.entity, retry.key or "")
            letters = self._lock_waiting(retry, 1)
            for letter in letters:
                dead_letters.fail_letter(self._session, letter.id, Outcome.DEAD, error_class, error_text)
                place = (letter.topic_id, letter.partition, letter.offset)
                identities.update_outcomes(self._session, [(letter.identity, Outcome.DEAD, *place)])
                moved = (letter.topic, letter.partition, letter.outcome, Outcome.DEAD)
                guard.move_counts(self._session, *moved, 1)
                if letter.topic not in self._skipping:
                    redriven.holds = f"{error_class}: {error_text}"
            self._release(queue, retry.entity, retry.key, redriven)
        return bool(letters)

    def _lock_waiting(self, retry: Retry, limit: int) -> Sequence[Letter]:
        """Locks the first waiting letters. Returns [] if the first one is not the letter of the retry."""
        if retry.key is None:
            letter = dead_letters.lock_letter(self._session, retry.letter_id)
            return [letter] if letter is not None and letter.state == LetterState.WAITING else []
        waiting = [LetterState.WAITING]
        letters = dead_letters.lock_letters(self._session, retry.entity, retry.key, limit, waiting)
        return letters if letters and letters[0].id == retry.letter_id else []

    def _release(self, queue: str, entity: str, key: str | None, redriven: Redriven) -> None:
        """Moves the retries to letters that still wait, and unparks the entity if no letter holds it."""
        retries.move_retry(self._session, entity, key, goes_on=redriven.holds is None)
        if key is None:
            return
        if redriven.holds is None:
            redriven.unparked = dead_letters.unpark_if_clear(self._session, entity, key, self._skipping)
        else:
            dead_letters.park_entities(self._session, entity, queue, [(key, redriven.holds)])

    def _redrive(self, entity: str, key: str, *, singly: bool) -> Redriven:
        redriven = Redriven()
        with self._session.transaction():
            queue = self._lock(entity, key)
            letters = self._choose(dead_letters.lock_letters(self._session, entity, key, LETTERS))
            self._settle(queue, entity, letters, redriven, singly=singly)
            faults.reach("redrive.before_commit")
            self._release(queue, entity, key, redriven)
        faults.reach("redrive.committed")
        return redriven

    def _settle(
        self, queue: str, entity: str, letters: Sequence[Letter], redriven: Redriven, *, singly: bool
    ) -> None:
        events = self._plan_in_time(letters, self._plan)
        snapshot = self._generation_writer.read_projection_snapshot(queue)
        self._erasures.refresh()
        writer = BatchWriter(
            self._session,
            queue=queue,
            entity=entity,
            snapshot=snapshot,
            erasures=self._erasures,
            redriving=True,
        )
        settled = writer.settle(events, singly=singly)
        # The next transaction handles the remaining letters.
        letters = letters[: len(settled)]
        for letter, one in zip(letters, settled, strict=True):
            self._note(letter, one, redriven)
        redriven.outgoing += sum(one.outgoing for one in settled)
        self._remember(letters, settled)
        self._recount(letters, settled)
        was = [letter.outcome for letter in letters]
        self._generation_writer.sync_redriven(snapshot, queue, list(zip(settled, was, strict=True)))

    def _plan(self, decoded: Decoded) -> Planned:
        return plan_event(self._registry, self._modes.topics[decoded.topic], decoded)

    def _note(self, letter: Letter, settled: EventResult, redriven: Redriven) -> None:
        assert settled.outcome is not None
        if settled.outcome is Outcome.WAITING:
            return
        redriven.outcomes[settled.outcome] += 1
        if settled.error is None:
            dead_letters.finish_letters(self._session, [letter.id], LetterState.DONE)
            return
        error, text = settled.error.error_class, settled.error.text
        traceback = settled.error.traceback or None
        dead_letters.fail_letter(self._session, letter.id, settled.outcome, error, text, traceback)
        if settled.outcome is Outcome.DEAD and redriven.blocked_by is None:
            why = f"{error}: {text}{describe_place(settled)}"
            redriven.blocked_by = f"{letter.topic}:{letter.partition}:{letter.offset} {why}"
        if settled.outcome is Outcome.DEAD and settled.planned.parks:
            redriven.holds = redriven.holds or f"{error}: {text}"

    def _remember(self, letters: Sequence[Letter], settled: Sequence[EventResult]) -> None:
        changed, new = [], []
        for letter, one in zip(letters, settled, strict=True):
            if one.outcome in (None, Outcome.WAITING):
                continue
            assert one.outcome is not None
            place = (letter.topic_id, letter.partition, letter.offset)
            changed.append((letter.identity, one.outcome, *place))
            # The record could not be decoded before, or it had no identity. Now it gets that of its event.
            decoded = one.planned.decoded
            if decoded.identity != letter.identity and decoded.stores_identity and not one.known:
                new.append(processed_row(one, one.outcome))
        identities.update_outcomes(self._session, changed)
        identities.insert_identities(self._session, new)

    def _recount(self, letters: Sequence[Letter], settled: Sequence[EventResult]) -> None:
        moves: Counter[tuple[str, int, str, str]] = Counter()
        for letter, one in zip(letters, settled, strict=True):
            if one.outcome is not None and one.outcome != letter.outcome:
                moves[letter.topic, letter.partition, letter.outcome, one.outcome] += 1
        for move, count in sorted(moves.items()):
            guard.move_counts(self._session, *move, count)


def _is_open(letter: Letter) -> bool:
    is_conflict = letter.outcome == Outcome.CONFLICT and letter.state == LetterState.DEAD
    return is_conflict or (letter.state in dead_letters.OPEN and letter.outcome == letter.state)
