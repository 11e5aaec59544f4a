"""Redrives, drops and resolves dead letters by an operator's decision, each with its row in `audit`."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from sluice.admin.connection import Environment, connected, read_environment
from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.admin.letter_details import WholeLetter, count_behind
from sluice.db.admin.letters import (
    Chosen,
    OpenConflict,
    OpenLetters,
    drop_keyless,
    read_conflicts,
    read_head,
    read_keyless,
    read_open_entities,
    resolve_conflicts,
)
from sluice.db.connection import BATCH_PLANS, Session
from sluice.db.errors import Fault, whose_fault
from sluice.db.records import ENTITY_ERASED, RECORD_SKIPPED, LetterState, Outcome
from sluice.kafka_io.whole_record import read_whole_record
from sluice.runtime.handler_watch import set_limits
from sluice.tasks.letter_redriver import Redriven
from sluice.tasks.projection_redrive import ProjectionRedriver
from sluice.tasks.redrive import Redriver

MOST_ENTITIES = 10_000  # maximum number per plan; the operator repeats the command for the rest
MOVED = "its state changed meanwhile; list it again"


@dataclass
class EntityRedriven:
    """The outcomes of one entity's letters, or of one letter whose record names no entity.

    `blocked_by` is the reason why the first letter failed again.
    """

    entity: str
    key: str | None
    letter_id: int | None = None
    outcomes: Counter[str] = field(default_factory=Counter)
    blocked_by: str | None = None
    unparked: bool = False

    @property
    def name(self) -> str:
        """Returns the entity, or entity type and letter id, for people."""
        return f"{self.entity}/{self.key}" if self.letter_id is None else f"{self.entity}, {self.letter_id}"

    def add(self, once: Redriven) -> None:
        """Adds the result of one more transaction."""
        self.outcomes.update(once.outcomes)
        self.blocked_by, self.unparked = once.blocked_by, once.unparked


class Redrivers(NamedTuple):
    """The redriver of dead letters and the redriver of letters of generations."""

    plain: Redriver
    projections: ProjectionRedriver


@contextmanager
def redriving() -> Iterator[Redrivers]:
    """Yields the redrivers, with the handlers of SLUICE_HANDLERS."""
    # Uses a separate session, because its query plans suit batches and not the queries of an operator.
    with connected("sluice redrive", plans=BATCH_PLANS) as session:
        environment = read_environment()
        plain = make_redriver(session, environment)
        access = environment.urls.kafka_access
        read_whole = partial(read_whole_record, access)
        yield Redrivers(plain, ProjectionRedriver(session, environment.registry, read_whole))


def make_redriver(session: Session, environment: Environment) -> Redriver:
    """Returns the redriver of dead letters, which uses this session."""
    set_limits(environment.settings)
    access = environment.urls.kafka_access
    return Redriver(session, environment.registry, partial(read_whole_record, access))


class RedrivePlan(NamedTuple):
    """The entities whose letters are redriven, and (id, entity type) of letters without an entity.

    No event waits behind a conflict, so each conflict is redriven alone.
    """

    entities: Sequence[OpenLetters]
    keyless: Sequence[tuple[int, str]]
    conflicts: Sequence[OpenConflict] = ()

    @property
    def letters(self) -> int:
        """Returns the number of letters."""
        single = len(self.keyless) + len(self.conflicts)
        return sum(one.dead + one.waiting for one in self.entities) + single

    @property
    def is_cut(self) -> bool:
        """Returns True if there may be more entities or letters than these."""
        return MOST_ENTITIES in (len(self.entities), len(self.keyless), len(self.conflicts))


def plan_redrive(session: Session, chosen: Chosen) -> RedrivePlan:
    """Returns what would be redriven: all letters of each entity with a chosen letter.

    If neither ids nor a state were chosen, these are the entities with a dead letter. An entity
    with only waiting letters was paused by an operator, or left waiting by `drop --no-redrive`.
    """
    if chosen.ids is None and chosen.state is None:
        chosen = chosen._replace(state=LetterState.DEAD)
    entities = read_open_entities(session, chosen, limit=MOST_ENTITIES)
    keyless = read_keyless(session, chosen, limit=MOST_ENTITIES)
    return RedrivePlan(entities, keyless, read_conflicts(session, chosen, limit=MOST_ENTITIES))


def redrive_all(
    session: Session,
    redriver: Redriver,
    plan: RedrivePlan,
    decision: Decision,
    *,
    tried: Callable[[int], object] = lambda _: None,
) -> Iterator[EntityRedriven]:
    """Redrives the plan, one entity after the other. Can be killed anywhere and repeated.

    Passes to `tried` how many letters each transaction tried. Raises OperationRefused for a broken
    deployment; the entities yielded before are done.
    """
    for one in plan.entities:
        yield redrive_entity(session, redriver, one, decision, tried=tried)
    for number, entity in plan.keyless:
        yield redrive_keyless(session, redriver, entity, number, decision)
        tried(1)
    for conflict in plan.conflicts:
        yield redrive_keyless(session, redriver, conflict.entity, conflict.id, decision, conflict.entity_key)
        tried(1)


def redrive_entity(
    session: Session,
    redriver: Redriver,
    letters: OpenLetters,
    decision: Decision,
    *,
    tried: Callable[[int], object] = lambda _: None,
) -> EntityRedriven:
    """Redrives an entity until no letter is left or a letter fails again. Writes the row in `audit` first.

    Calls `tried` with the number of letters of each transaction. Can be killed anywhere and repeated.
    Raises OperationRefused for a broken deployment.
    """
    details = as_json({"dead": letters.dead, "waiting": letters.waiting})
    with session.transaction():
        insert_audits(session, decision, [(f"{letters.entity}/{letters.entity_key}", details)])
    return redrive_rest(redriver, letters.entity, letters.entity_key, tried=tried)


def redrive_rest(
    redriver: Redriver, entity: str, key: str, *, tried: Callable[[int], object] = lambda _: None
) -> EntityRedriven:
    """Redrives an entity like `redrive_entity`, but writes no row in `audit`, because the caller
    has written it.
    """
    redriven = EntityRedriven(entity, key)
    while True:
        with refused_if_broken(redriven.name):
            once = redriver.redrive_once(entity, key)
        redriven.add(once)
        tried(once.outcomes.total())
        # An entity that was not parked is never reported as unparked. Its redrive ends when no
        # letter is left.
        if once.blocked_by or once.unparked or not once.outcomes:
            return redriven


def redrive_keyless(
    session: Session,
    redriver: Redriver,
    entity: str,
    letter_id: int,
    decision: Decision,
    key: str | None = None,
) -> EntityRedriven:
    """Redrives one letter behind which no event waits: a conflict, or a record without an entity."""
    with session.transaction():
        insert_audits(session, decision, [(str(letter_id), as_json({"dead": 1, "waiting": 0}))])
    redriven = EntityRedriven(entity, None, letter_id)
    with refused_if_broken(redriven.name):
        redriven.add(redriver.redrive_letter(entity, letter_id, key))
    return redriven


def require_redrivable(letter: WholeLetter) -> None:
    """Raises OperationRefused for a letter of a skipped record or an erased entity, which has no content."""
    if letter.error_class == ENTITY_ERASED:
        raise OperationRefused(
            f"{letter.id} was erased with its entity: its content is not stored, and its record will"
            " never be applied; if you need the event, produce it again"
        )
    if letter.error_class == RECORD_SKIPPED:
        raise OperationRefused(
            f"{letter.id} is a record that was skipped and never read: produce its event again, then run"
            f' `sluice dlq drop {letter.id} --reason "…"`'
        )


def require_droppable(session: Session, letter: WholeLetter) -> None:
    """Raises OperationRefused unless the letter is dead, and the first of its entity."""
    if letter.outcome == Outcome.CONFLICT:
        raise OperationRefused(
            f"{letter.id} is a conflict, which blocks no event: run `sluice dlq resolve {letter.id} --reason"
            ' "…"`'
        )
    if letter.state not in (LetterState.DEAD, LetterState.WAITING, LetterState.RETRYING):
        raise OperationRefused(f"{letter.id} is {letter.state}: there is nothing to drop")
    if letter.entity_key is not None:
        head = read_head(session, letter.entity, letter.entity_key)
        if head != letter.id:
            raise OperationRefused(
                f"{letter.id} is not the first letter of its entity: drop {head} before it"
            )


def drop_letter(session: Session, redriver: Redriver, letter: WholeLetter, decision: Decision) -> None:
    """Drops the letter permanently. Raises OperationRefused if it is no longer the first of its entity."""
    subject = (str(letter.id), as_json({"record": [letter.topic, letter.partition, letter.offset]}))
    if letter.entity_key is None:
        # A retry also locks the queue and then the letter, so the transaction that is first wins.
        with session.transaction():
            if not drop_keyless(session, letter.id):
                raise OperationRefused(f"{letter.id}: {MOVED}")
            insert_audits(session, decision, [subject])
        return
    # Written first, because the drop has a separate transaction and must have its row in `audit`.
    with session.transaction():
        insert_audits(session, decision, [subject])
    if not redriver.drop(letter.entity, letter.entity_key, letter.id):
        with session.transaction():
            insert_audits(session, decision, [(subject[0], as_json({"not_done": MOVED}))])
        raise OperationRefused(f"{letter.id}: {MOVED}")


def drop_and_redrive(
    session: Session, redriver: Redriver, letter: WholeLetter, decision: Decision, *, no_redrive: bool
) -> list[EntityRedriven]:
    """Drops the letter and redrives the letters behind it, unless `no_redrive`.

    Raises OperationRefused if the letter is no longer the first of its entity.
    """
    drop_letter(session, redriver, letter, decision)
    # If no event waits behind the letter, the entity is unparked, even with `no_redrive`.
    if letter.entity_key is None or (no_redrive and count_behind(session, letter)):
        return []
    return [redrive_rest(redriver, letter.entity, letter.entity_key)]


def resolve_letters(session: Session, letters: Sequence[WholeLetter], decision: Decision) -> set[int]:
    """Marks conflicts as seen. Returns the ids of the conflicts that were open. Idempotent."""
    with session.transaction():
        resolved = resolve_conflicts(session, [letter.id for letter in letters])
        insert_audits(
            session,
            decision,
            [
                (str(one.id), as_json({"record": [one.topic, one.partition, one.offset]}))
                for one in letters
                if one.id in resolved
            ],
        )
    return resolved


def is_conflict(letter: WholeLetter) -> bool:
    """Returns True for a conflict that is not marked as seen."""
    return letter.outcome == Outcome.CONFLICT and letter.state == LetterState.DEAD


@contextmanager
def refused_if_broken(name: str) -> Iterator[None]:
    """Raises OperationRefused for a broken deployment, with the name of the entity."""
    try:
        yield
    except Exception as error:
        if whose_fault(error) is Fault.DEPLOYMENT:
            raise OperationRefused(f"{name}: the deployment is broken: {_one_line(error)}") from error
        raise


def _one_line(error: Exception) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
