"""A world with its rows in Postgres. Postgres enforces each CHECK, UNIQUE, foreign key and trigger."""

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

from sqlalchemy import Table

from sluice.admin.init import create_tables
from sluice.admin.projection_letters import plan_projection_redrive
from sluice.admin.projection_letters import redrive_rest as redrive_held
from sluice.admin.redrive import plan_redrive, redrive_rest
from sluice.db.admin.letter_details import WholeLetter, read_whole_letters, read_whole_projection_letter
from sluice.db.admin.letters import Chosen
from sluice.db.admin.projection_letters import ChosenLetters, ProjectionLetterRow, read_projection_letters
from sluice.db.admin.queue_admin import read_queues, resume_queue
from sluice.db.admin.written_effects import read_ledger_rows, read_outbox_rows, read_outcomes
from sluice.db.apply.dead_letters import Letter
from sluice.db.apply.rows import RowStatements, read_all_rows
from sluice.db.connection import BATCH_PLANS, Session
from sluice.db.delivery.installation import create_installation
from sluice.db.delivery.progress import TopicStart, register_topic
from sluice.db.migrations.migrate import upgrade
from sluice.db.records import LetterState, Outcome
from sluice.kafka_io.record_types import Record
from sluice.kafka_io.whole_record import ReadWhole
from sluice.runtime.place import Place
from sluice.tasks.api import Call, Columns, Emit, Version
from sluice.tasks.apply.apply import Applier
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.apply.row_store import RowStore
from sluice.tasks.events.decode import WITHOUT_IDENTITIES
from sluice.tasks.events.routing import queue_name, shard_of
from sluice.tasks.fold.fold_state import EventResult
from sluice.tasks.fold.registry import Registry
from sluice.tasks.letter_redriver import Redriven
from sluice.tasks.projection_redrive import ProjectionRedriver
from sluice.tasks.redrive import Redriver
from sluice.testing.any_world import (
    PARTITION,
    AnyWorld,
    DeadLetter,
    Module,
    Values,
    collect,
    emit_of,
    topic_id,
)
from sluice.testing.calls import CallResult, CallRunner, Providers, call_of
from sluice.testing.given_rows import given_row

INSTALLATION = "sluice"
FIRST_EPOCH, FIRST_GENERATION = 1, 1
# A queue normally halts when many of its events fail, but a test may send only events that fail.
ACCEPTED_DEATHS = 1_000_000
MOST_LETTERS = 100_000
_CLOSED = (LetterState.DONE, LetterState.DROPPED)


class NotSettled(Exception):
    """An event has no outcome, and the cause is not the event itself."""


class PostgresWorld(AnyWorld):
    """Like `World`, but runs the transactions of a worker on a real Postgres, without Kafka and Redis."""

    def __init__(self, registry: Registry, session: Session, batches: Session) -> None:
        """`session` is for reading. `batches` is for applying events, with query plans that suit batches."""
        super().__init__(registry)
        self._session = session
        self._batches = batches
        self._applier = Applier(batches, registry)
        self._runner = CallRunner()
        self._lanes: dict[tuple[str, str], int] = {}
        self._outcomes: dict[tuple[str, int], Outcome] = {}

    def given(self, table: Table | str, key: str, values: Columns, version: Version | None = None) -> None:
        found = self._table(table)
        name, row = given_row(found, key, values, version)
        store = RowStore(self._batches, dict.fromkeys(self._registry.projection_tables, FIRST_GENERATION))
        with self._batches.transaction():
            store.load_row(found, name)
            store.write({(found, name): row})

    def rows(self, table: Table | str) -> dict[str, Values]:
        return dict(read_all_rows(self._session, RowStatements(self._table(table))))

    @property
    def emitted(self) -> list[Emit]:
        return [emit_of(row) for row in read_outbox_rows(self._session)]

    @property
    def calls(self) -> list[Call]:
        return [call_of(row) for row in read_ledger_rows(self._session)]

    @property
    def outcomes(self) -> list[Outcome]:
        return list(self._outcomes.values())

    @property
    def dead_letters(self) -> list[DeadLetter]:
        own = read_whole_letters(self._session, Chosen(), after=0, limit=MOST_LETTERS)
        of_projections = read_projection_letters(self._session, ChosenLetters(), limit=MOST_LETTERS)
        every: Sequence[WholeLetter | ProjectionLetterRow] = [*own, *of_projections]
        still_open = [letter for letter in every if letter.state not in _CLOSED]
        return [self._dead_letter(letter) for letter in sorted(still_open, key=lambda letter: letter.id)]

    def _dead_letter(self, letter: WholeLetter | ProjectionLetterRow) -> DeadLetter:
        projection, traceback = None, None
        if isinstance(letter, WholeLetter):
            traceback = letter.traceback
        else:
            projection = letter.projection
            whole = read_whole_projection_letter(self._session, letter.id)
            traceback = None if whole is None else whole.columns["traceback"]
        return DeadLetter(
            letter.topic,
            letter.entity_key,
            letter.type,
            Outcome(letter.outcome),
            f"{letter.error_class}: {letter.error_text}",
            projection,
            traceback or "",
        )

    def redrive(self) -> None:
        plain = _NotingRedriver(self._batches, self._registry, _nothing_in_kafka)
        plan = plan_redrive(self._session, Chosen())
        for one in plan.entities:
            redrive_rest(plain, one.entity, one.entity_key)
        for number, entity in plan.keyless:
            plain.redrive_letter(entity, number)
        for conflict in plan.conflicts:
            plain.redrive_letter(conflict.entity, conflict.id, conflict.entity_key)
        of_projections = ProjectionRedriver(self._batches, self._registry, _nothing_in_kafka)
        for held in plan_projection_redrive(self._session, ChosenLetters()):
            redrive_held(of_projections, held)
        for place, outcome in read_outcomes(self._session, sorted(self._registry.topics)).items():
            self._outcomes[place] = outcome
        for (topic, offset), outcome in plain.outcomes.items():
            if self._registry.topics[topic].dedup in WITHOUT_IDENTITIES:
                self._outcomes[topic, offset] = outcome

    def run_calls(self, provider: Providers = None) -> list[CallResult]:
        return self._runner.run(self._registry, read_ledger_rows(self._session), provider)

    def _take(self, topic: str, record: Record) -> Outcome | None:
        entity = self._registry.topics[topic].entity
        queue = queue_name(entity.name, shard_of(record.key, entity.shards))
        applied = self._lanes.get((topic, queue), -1)
        before = applied if record.offset > applied else -1
        piece = Slice(topic, topic_id(topic), PARTITION, FIRST_EPOCH, before, [record])
        done = self._applier.apply(queue, [piece])
        if done is None:
            halted = {one.queue: one.halted_reason for one in read_queues(self._session)}
            why = halted.get(queue) or "see the error in the log"
            raise NotSettled(f"record {record.offset} of {topic} was not applied: {why}")
        self._lanes[topic, queue] = max(applied, record.offset)
        for outcome in done.outcomes:
            self._outcomes[topic, record.offset] = Outcome(outcome)
            return Outcome(outcome)
        return None


class _NotingRedriver(Redriver):
    """Keeps the new outcomes of letters, because Postgres has no outcomes of events without identities."""

    def __init__(self, session: Session, registry: Registry, read_whole: ReadWhole) -> None:
        super().__init__(session, registry, read_whole)
        self.outcomes: dict[tuple[str, int], Outcome] = {}

    def _note(self, letter: Letter, settled: EventResult, redriven: Redriven) -> None:
        super()._note(letter, settled, redriven)
        if settled.outcome not in (None, Outcome.WAITING):
            self.outcomes[letter.topic, letter.offset] = settled.outcome


@contextmanager
def postgres_world(database_url: str, *modules: Module) -> Iterator[PostgresWorld]:
    """Creates the tables of Sluice and of the modules in an empty database. Yields its world."""
    registry = collect(modules)
    upgrade(database_url)
    create_tables(database_url, registry)
    with (
        closing(Session(database_url, application_name="sluice test")) as session,
        closing(Session(database_url, application_name="sluice test batches", plans=BATCH_PLANS)) as batches,
    ):
        create_installation(session, INSTALLATION)
        for topic in registry.topics.values():
            entity = topic.entity
            starts = {PARTITION: 0}
            place = (topic.name, topic_id(topic.name), entity.name, entity.shards)
            register_topic(session, TopicStart(*place, starts, topic.dedup))
        for queue in read_queues(session):
            resume_queue(session, queue.queue, ACCEPTED_DEATHS)
        yield PostgresWorld(registry, session, batches)


def _nothing_in_kafka(_place: Place, _offset: int) -> None:
    """Replaces `read_whole_record`. Every record of a test is stored whole."""
