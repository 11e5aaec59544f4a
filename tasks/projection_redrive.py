"""Applies letters of one generation again, with the current code. Changes nothing else."""

from collections.abc import Sequence
from typing import NamedTuple

from sluice.db.apply import projection_letters
from sluice.db.apply.dead_letters import Letter
from sluice.db.errors import DeploymentBroken
from sluice.db.projections import generation_lanes, generations
from sluice.db.projections.generations import SyncedGeneration
from sluice.db.records import LetterState, Outcome
from sluice.runtime.fault_points import faults
from sluice.tasks.apply.generation_feed import GenerationFeed
from sluice.tasks.apply.generation_writer import NotThisRevision
from sluice.tasks.events.decode import Decoded
from sluice.tasks.fold.fold_state import EventResult
from sluice.tasks.fold.plan import Planned, plan_projection
from sluice.tasks.letter_redriver import LETTERS, LetterRedriver, Redriven


class HeldEntity(NamedTuple):
    """An entity whose events wait for one generation. `key` is None for events that name no entity."""

    projection: str
    generation: int
    entity: str
    key: str | None


class ProjectionRedriver(LetterRedriver):
    """Redrives letters of generations. Workers continue between the transactions."""

    def redrive_once(self, held: HeldEntity) -> Redriven:
        """Redrives the oldest open letters of an entity in one transaction. Idempotent, and safe to kill.

        Raises DeploymentBroken, and errors of Postgres that persist.
        """

        def attempt(singly: bool) -> Redriven:
            redriven = Redriven()
            with self._session.transaction():
                synced = self._lock_generation(held)
                letters = self._choose(self._lock_letters(held, LETTERS))
                self._settle(held, synced, letters, redriven, singly=singly)
                redriven.unparked = not self._lock_letters(held, 1)
                faults.reach("projection_redrive.before_commit")
            faults.reach("projection_redrive.committed")
            return redriven

        return self._provide(lambda: self._retry(held.entity, attempt))

    def redrive_letter(self, held: HeldEntity, letter_id: int) -> Redriven:
        """Redrives one letter that names no entity, as `redrive_once`. No letter waits behind it."""

        def attempt(singly: bool) -> Redriven:
            redriven = Redriven()
            with self._session.transaction():
                synced = self._lock_generation(held)
                letter = projection_letters.lock_letter(self._session, letter_id)
                if letter is not None and letter.state in (LetterState.DEAD, LetterState.WAITING):
                    self._settle(held, synced, self._choose([letter]), redriven, singly=singly)
            return redriven

        return self._provide(lambda: self._retry(held.entity, attempt))

    def drop(self, held: HeldEntity, letter_id: int) -> bool:
        """Drops the entity's first letter permanently. Returns False if it is no longer the first letter."""

        def attempt(_singly: bool) -> bool:
            with self._session.transaction():
                self._lock(held.entity, held.key or "")
                if held.key is None:
                    letter = projection_letters.lock_letter(self._session, letter_id)
                    letters: Sequence[Letter] = [] if letter is None else [letter]
                else:
                    letters = self._lock_letters(held, 1)
                if not letters or letters[0].id != letter_id:
                    return False
                projection_letters.finish_letters(self._session, [letter_id], LetterState.DROPPED)
                return True

        return self._retry(held.entity, attempt)

    def _lock_generation(self, held: HeldEntity) -> SyncedGeneration:
        queue = self._lock(held.entity, held.key or "")
        snapshot = generations.read_projection_snapshot(self._session, queue)
        known = {(one.projection, one.generation): one for one in (*snapshot.synced, *snapshot.fed.values())}
        synced = known.get((held.projection, held.generation))
        if synced is None:
            raise DeploymentBroken(f"generation {held.generation} of {held.projection} is not fed")
        revision = self._registry.revisions.get(held.projection)
        if revision is None:
            raise DeploymentBroken(f"projection {held.projection} is filled by no module of SLUICE_HANDLERS")
        if not synced.takes(revision):
            raise NotThisRevision(synced, revision)
        generation_lanes.lock_queue_lanes(self._session, held.projection, held.generation, queue)
        generation_lanes.note_filled(self._session, held.projection, held.generation, queue)
        return synced

    def _lock_letters(self, held: HeldEntity, limit: int) -> Sequence[Letter]:
        assert held.key is not None
        return projection_letters.lock_letters(
            self._session, held.projection, held.generation, held.entity, held.key, limit
        )

    def _settle(
        self,
        held: HeldEntity,
        synced: SyncedGeneration,
        letters: Sequence[Letter],
        redriven: Redriven,
        *,
        singly: bool,
    ) -> None:
        table = self._registry.projection_tables[held.projection]

        def plan(decoded: Decoded) -> Planned:
            return plan_projection(self._registry, table, decoded)

        events = self._plan_in_time(letters, plan)
        feed = GenerationFeed(self._session, synced, held.entity, stores=False)
        settled = feed.take_singly(events) if singly else feed.take(events)
        done = [letter.id for letter, one in zip(letters, settled, strict=False) if not one.letters]
        projection_letters.finish_letters(self._session, done, LetterState.DONE)
        for letter, one in zip(letters, settled, strict=False):
            self._note(letter, one, redriven)

    def _note(self, letter: Letter, settled: EventResult, redriven: Redriven) -> None:
        if not settled.letters:
            redriven.outcomes[settled.outcome or Outcome.DUPLICATE] += 1
            return
        [mine] = settled.letters
        if not mine.failed:
            return
        redriven.outcomes[mine.outcome] += 1
        fault = mine.fault
        why = (fault.error_class, fault.text, fault.traceback or None)
        projection_letters.fail_letter(self._session, letter.id, mine.outcome, *why, holds=mine.holds)
        if redriven.blocked_by is None:
            redriven.blocked_by = f"{letter.topic}:{letter.partition}:{letter.offset} {fault}"
