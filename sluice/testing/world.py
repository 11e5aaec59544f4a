"""A world in memory: the code of the workers without servers and without a clock."""

from collections import Counter
from copy import copy

from sqlalchemy import Table

from sluice.db.records import Outcome
from sluice.db.tables import shape_of
from sluice.kafka_io.record_types import Record
from sluice.tasks.api import Call, Columns, Emit, Version
from sluice.tasks.events.payload import copied_json
from sluice.tasks.fold.registry import Registry
from sluice.tasks.fold.versioned_row import ABSENT
from sluice.testing import refolding
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
from sluice.testing.folded_log import FoldedLog
from sluice.testing.given_rows import given_row
from sluice.testing.handler_memory import HandlerMemory
from sluice.testing.not_played import not_played, undeclared_topics
from sluice.testing.written_test import given_code, module_names


class World(AnyWorld):
    """Applies events with the code of the workers, with rows, outgoing events and calls in memory.

    Does not enforce CHECK, UNIQUE, foreign keys and triggers, and accepts an Emit to any topic;
    `not_played` lists these rules and topics.
    """

    def __init__(self, *modules: Module) -> None:
        """`modules` are names, as in SLUICE_HANDLERS, or the modules themselves. Raises HandlersRefused."""
        super().__init__(collect(modules))
        self.script.append(f"World({module_names(modules)})")
        self._log = FoldedLog(self._registry)
        self._runner = CallRunner()
        self._memory = HandlerMemory(self._registry)

    def __repr__(self) -> str:
        """Returns the outcomes and the newest dead letter: pytest shows them if an assertion fails."""
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in Counter(self.outcomes).items())
        letters = [letter for letter in self.dead_letters if letter.outcome is not Outcome.WAITING]
        newest = f"; {letters[-1].type} of {letters[-1].key!r}: {letters[-1].error:.170}" if letters else ""
        return f"<World: {outcomes or 'no events'}{newest}>"

    def copy(self) -> "World":
        """Returns an independent copy of the world."""
        other = copy(self)
        other.script = list(self.script)
        other._sent = list(self._sent)
        other._next_offsets = dict(self._next_offsets)
        other._log = self._log.copy()
        other._runner = self._runner.copy()
        return other

    def given(self, table: Table | str, key: str, values: Columns, version: Version | None = None) -> None:
        found = self._table(table)
        name, row = given_row(found, key, values, version)
        self.script.append(given_code(found, name, row.values or {}, version))
        before = self._log.rows.get((found, name), ABSENT)
        self._log.rows[found, name] = row._replace(tombstone=before.tombstone)

    def rows(self, table: Table | str) -> dict[str, Values]:
        found = self._table(table)
        keys = sorted(key for of, key in self._log.rows if of is found)
        return {key: values for key in keys if (values := self.row(found, key)) is not None}

    def row(self, table: Table | str, key: str) -> Values | None:
        found = self._table(table)
        values = self._log.rows.get((found, key), ABSENT).values
        if values is None:
            return None
        return {name: copied_json(values[name]) for name in shape_of(found).row_columns}

    @property
    def emitted(self) -> list[Emit]:
        return [emit_of(row) for row in self._log.emits]

    @property
    def calls(self) -> list[Call]:
        return [call_of(row) for row in self._log.calls]

    @property
    def outcomes(self) -> list[Outcome]:
        return [entry.outcome for entry in self._log.entries]

    @property
    def dead_letters(self) -> list[DeadLetter]:
        return [
            DeadLetter(
                self._log.entries[letter.entry].topic,
                letter.key,
                letter.type,
                letter.outcome,
                str(letter.fault),
                letter.projection,
                letter.fault.traceback,
            )
            for letter in self._log.letters
        ]

    @property
    def ended_early(self) -> list[str]:
        """A line for each handler that ended at a write without effect, which is stale or a duplicate.

        The handler's later effects are not applied.
        """
        return list(self._log.ends)

    @property
    def not_played(self) -> list[str]:
        """One line for each rule of the tables that only Postgres enforces, and each undeclared topic.

        Lists a topic if an outgoing event of this world is for it and no module declares it.
        """
        registry = self._registry
        declared = registry.outgoing_topics | registry.topics.keys()
        topics = undeclared_topics((row.topic for row in self._log.emits), declared)
        return not_played(registry.tables.values()) + topics

    def restart(self, *modules: Module) -> None:
        """Simulates the start of a new worker: resets the variables of handlers. If `modules` are
        given, deploys these modules. Rows, letters and calls stay. Tables of the new modules get
        the rows of the former tables with the same names. Raises ValueError if the new modules lack
        a topic that has records.
        """
        self.script.append(f"restart({module_names(modules)})")
        if modules:
            self._deploy(collect(modules))
        self._memory.reset()

    def _deploy(self, registry: Registry) -> None:
        for topic in {name for name, _ in self._sent}:
            if topic not in registry.topics:
                raise ValueError(f"the new modules do not declare topic {topic!r}, which has records")
        self._registry = self._log.registry = registry
        self._next_offsets = dict.fromkeys(registry.topics, 0) | self._next_offsets
        self._log.rows = {
            (registry.tables.get(table.name, table), key): row for (table, key), row in self._log.rows.items()
        }
        self._memory = HandlerMemory(registry)

    def redrive(self) -> None:
        self.script.append("redrive()")
        refolding.redrive(self._log)

    def rebuild(self, projection: Table | str) -> dict[str, tuple[Values | None, Values | None]]:
        """Rebuilds a projection from the sent events with the current code, and swaps it in.

        Returns key → (values before, values after) of the rows that differ. Rows from `given` are not in the
        log, so the rebuild removes them.
        """
        table = self._table(projection)
        self.script.append(f"rebuild({table.name!r})")
        return refolding.rebuild(self._log, table)

    def run_calls(self, provider: Providers = None) -> list[CallResult]:
        return self._runner.run(self._registry, self._log.calls, provider)

    def _take(self, topic: str, record: Record) -> Outcome | None:
        return self._log.take(topic, topic_id(topic), PARTITION, record).outcome
