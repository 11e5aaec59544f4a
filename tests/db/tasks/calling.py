"""A test bench that makes calls of side effects without Celery, and the possible answers of a provider."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest
import structlog

from sluice.db.apply.outgoing import insert_effects
from sluice.db.connection import QUEUE_PLANS, Session
from sluice.db.delivery.switches import clear_switch, set_switch
from sluice.db.records import LedgerRow
from sluice.db.sending import calls as calls_module
from sluice.db.sending.calls import EFFECTS_PAUSED
from sluice.tasks.api import EffectCall, EffectDeclaration, NotSent, Refused
from sluice.tasks.effects import executor
from sluice.tasks.fold.registry import EffectEntry, Registry
from tests.harness.raw_sql import cursor_of

Act = Callable[[EffectCall], Any]


class Bench:
    """The table of calls (the ledger), executors, and a provider that runs a given function per attempt."""

    def __init__(
        self, database_url: str, effects: ModuleType = executor, calls: ModuleType = calls_module
    ) -> None:
        self.url = database_url
        self.effects, self.calls = effects, calls
        self.sessions: list[Session] = []
        self.looking = self.open()
        self.registry = Registry()
        for declaration in (
            EffectDeclaration("pay", "retry", 10, 3, 3_600, holds=False),
            EffectDeclaration("mail", "ask", 10, 3, None, holds=False),
            EffectDeclaration("strict", "ask", 10, 3, None, holds=True),
            EffectDeclaration("slow", "retry", 0.2, 3, 3_600, holds=False),
        ):
            self.registry.effects[declaration.name] = EffectEntry(declaration, self.provide)
        self.acts: list[Act] = []
        self.called: list[EffectCall] = []
        self.session = self.open()
        self.executor = self.effects.Executor(self.session, self.registry)

    def provide(self, call: EffectCall) -> Any:
        self.called.append(call)
        return self.acts.pop(0)(call) if self.acts else {"ok": True}

    def open(self) -> Session:
        session = Session(self.url, application_name="test effects", plans=QUEUE_PLANS)
        self.sessions.append(session)
        return session

    def add(self, *keys: str, effect: str = "pay", entity_key: str | None = "k") -> None:
        """Adds calls to the ledger, in this order."""
        rows = [
            LedgerRow(key, effect, UUID(int=1), entity_key, '{"n":1}', UUID(int=2), False) for key in keys
        ]
        insert_effects(self.looking, "order", rows)

    def run(self, key: str, *acts: Act) -> None:
        """Makes one attempt now. The provider runs `acts[0]` in it."""
        self.look("UPDATE sluice.executed_side_effects SET due_at = now() WHERE state = 'pending'")
        self.acts = list(acts)
        self.executor.run(key)

    def expire(self, key: str) -> int:
        """Ends the lease of a call. Returns the number of expired leases that the executor found."""
        self.look(
            "UPDATE sluice.executed_side_effects SET claimed_until = now() - interval '1 s'"
            f" WHERE effect_key = '{key}'"
        )
        return int(self.effects.expire_claims(self.open(), self.registry))

    def state(self, key: str) -> str:
        return str(self.row(key, "state"))

    def row(self, key: str, columns: str) -> Any:
        """Returns the value of one column, or the values of several columns as a tuple."""
        [row] = self.look(f"SELECT {columns} FROM sluice.executed_side_effects WHERE effect_key = '{key}'")
        return row[0] if len(row) == 1 else row

    def look(self, query: str, values: tuple[Any, ...] | None = None) -> list[tuple[Any, ...]]:
        with cursor_of(self.looking) as cursor:
            cursor.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def pause(self) -> None:
        set_switch(self.looking, EFFECTS_PAUSED, actor="me", reason="test")

    def resume(self) -> None:
        clear_switch(self.looking, EFFECTS_PAUSED)

    def close(self) -> None:
        for session in self.sessions:
            session.close()


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    bench = Bench(database_url)
    yield bench
    bench.close()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


def raises(error: BaseException) -> Act:
    def act(call: EffectCall) -> Any:
        raise error

    return act


RESULT_NOT_STORED = "the process that made the call ended without storing its result"
UNKNOWN, NOT_SENT, REFUSED = raises(OSError("reset")), raises(NotSent("no route")), raises(Refused("broke"))
