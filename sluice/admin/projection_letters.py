"""Redrives and drops letters of a generation by an operator's decision, each with its row in `audit`."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.admin.redrive import MOST_ENTITIES, MOVED, refused_if_broken
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.admin.projection_letters import (
    ChosenLetters,
    HeldLetters,
    ProjectionLetterRow,
    read_held_entities,
    read_projection_letters,
)
from sluice.db.connection import Session
from sluice.db.records import LetterState
from sluice.tasks.projection_redrive import HeldEntity, ProjectionRedriver


@dataclass
class LettersRedriven:
    """The outcomes of an entity's letters in one generation. `blocked_by` is the reason why a
    letter failed again, if one did.
    """

    held: HeldLetters
    outcomes: Counter[str] = field(default_factory=Counter)
    blocked_by: str | None = None
    unparked: bool = False

    @property
    def name(self) -> str:
        """Returns the entity and the generation, for people."""
        key = self.held.entity_key
        of = f"{self.held.entity}/{key}" if key is not None else f"{self.held.entity}, {self.held.first_id}"
        return f"{of} in generation {self.held.generation} of {self.held.projection}"


def plan_projection_redrive(session: Session, chosen: ChosenLetters) -> list[HeldLetters]:
    """Returns the letters to redrive: all open letters of each entity with a chosen letter."""
    return read_held_entities(session, chosen, limit=MOST_ENTITIES)


def redrive_projection(
    session: Session,
    redriver: ProjectionRedriver,
    plan: Sequence[HeldLetters],
    decision: Decision,
    *,
    tried: Callable[[int], object] = lambda _: None,
) -> Iterator[LettersRedriven]:
    """Redrives one entity after the other. Ends with an entity when one of its letters fails again.

    Can be killed anywhere and repeated. Passes to `tried` how many letters each transaction tried.
    Raises OperationRefused for a broken deployment.
    """
    for held in plan:
        details = as_json({"generation": held.generation, "failed": held.failed, "waiting": held.waiting})
        with session.transaction():
            insert_audits(
                session, decision, [(f"{held.projection} {held.entity}/{held.entity_key}", details)]
            )
        yield redrive_rest(redriver, held, tried=tried)


def redrive_rest(
    redriver: ProjectionRedriver, held: HeldLetters, *, tried: Callable[[int], object] = lambda _: None
) -> LettersRedriven:
    """Redrives one entity like `redrive_projection`, but writes no row in `audit`, because the
    caller has written it.
    """
    redriven = LettersRedriven(held)
    entity = HeldEntity(held.projection, held.generation, held.entity, held.entity_key)
    while True:
        with refused_if_broken(redriven.name):
            if held.entity_key is None:
                once = redriver.redrive_letter(entity, held.first_id)
            else:
                once = redriver.redrive_once(entity)
        redriven.outcomes.update(once.outcomes)
        redriven.blocked_by, redriven.unparked = once.blocked_by, once.unparked
        tried(once.outcomes.total())
        if once.blocked_by or once.unparked or not once.outcomes or held.entity_key is None:
            return redriven


def find_letter(session: Session, number: int) -> ProjectionLetterRow | None:
    """Returns the letter of a generation with this id, None if there is none."""
    found = read_projection_letters(session, ChosenLetters(ids=(number,)), limit=1)
    return found[0] if found else None


def require_droppable_letter(session: Session, letter: ProjectionLetterRow) -> HeldLetters:
    """Returns the entity of a letter that can be dropped. Raises OperationRefused."""
    if letter.state not in (LetterState.DEAD, LetterState.WAITING):
        raise OperationRefused(f"{letter.id} is {letter.state}: there is nothing to drop")
    chosen = ChosenLetters(letter.projection, letter.generation, (letter.id,))
    [held] = read_held_entities(session, chosen, limit=1)
    if held.first_id != letter.id:
        raise OperationRefused(
            f"{letter.id} is not the first letter of its entity: drop {held.first_id} before it"
        )
    return held


def drop_letter(
    session: Session, redriver: ProjectionRedriver, letter: ProjectionLetterRow, decision: Decision
) -> None:
    """Drops a letter for its generation. Raises OperationRefused if it is no longer the first."""
    details = {
        "record": [letter.topic, letter.partition, letter.offset],
        "projection": letter.projection,
        "generation": letter.generation,
    }
    with session.transaction():
        insert_audits(session, decision, [(str(letter.id), as_json(details))])
    held = HeldEntity(letter.projection, letter.generation, letter.entity, letter.entity_key)
    if not redriver.drop(held, letter.id):
        with session.transaction():
            insert_audits(session, decision, [(str(letter.id), as_json({"not_done": MOVED}))])
        raise OperationRefused(f"{letter.id}: {MOVED}")
