"""Relays under random failures: hundreds of seeds pass, and every mutant fails.

A hint (`sent_through`) is the id up to which all rows of a queue are sent. A relay reads only rows above it.
"""

from collections.abc import Iterator, Mapping
from types import ModuleType

import pytest
import structlog

from sluice.db.records import WaitingRow
from sluice.kafka_io.record_types import Delivery
from sluice.tasks.outbox import outbox_page
from sluice.tasks.outbox import relay as relay_module
from tests.mutants import mutated
from tests.simulation.relay_services import Outbox
from tests.simulation.relay_simulation import Shell, Simulation
from tests.simulation.relay_surroundings import Broken, Postgres
from tests.simulation.seeds import draw_seeds

SEEDS = 400  # At least this many seeds run. Each mutant fails for one of these seeds.
BLOCKS = 4  # Pytest workers run the blocks in parallel.
MUTANT_SEEDS = 400
TURNS = 150


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_event_is_lost_invented_or_out_of_order(block: int, request: pytest.FixtureRequest) -> None:
    fixed = range(block * SEEDS // BLOCKS, (block + 1) * SEEDS // BLOCKS)
    for seed in draw_seeds(fixed, request):
        Simulation(seed, Shell()).run(TURNS)


class RowsReadWithTheLock(Outbox):
    """A mutant that reads the page in the statement that takes the lock, so from an older snapshot."""

    def page_state(self, pg: Postgres) -> Postgres:
        return self.snapshot


class RefusalsReadWithTheLock(Outbox):
    """A mutant that reads the lowest refused row in the statement that takes the lock."""

    def lowest_refused(self, pg: Postgres) -> dict[str, int | None]:
        return super().lowest_refused(self.snapshot)


class KeysHeldInEveryQueue(Outbox):
    """A mutant in which a refused record blocks equal keys in all queues, not only in its own queue."""

    def is_held(self, pg: Postgres, row: WaitingRow) -> bool:
        refused = pg.refusals.values()
        return super().is_held(pg, row) or any((r.topic, r.key) == (row.topic, row.key) for r in refused)


class HintsNeverRestored(Outbox):
    """A mutant that keeps its saved hints when Postgres is restored to an older state."""

    saved: Mapping[str, int] = {}

    def save_sent_through(self, sent_through: Mapping[str, int]) -> None:
        self.saved = {**self.saved, **sent_through}

    def read_sent_through(self) -> dict[str, int]:
        return {**super().read_sent_through(), **self.saved}


def relay_with_page(old: str, new: str) -> ModuleType:
    """Returns a copy of the relay's module that uses a mutated page."""
    relay, page = mutated(relay_module, "class Relay:", "class Relay:"), mutated(outbox_page, old, new)
    vars(page).update(Delivery=Delivery)  # the simulated broker returns values of this type
    vars(relay).update(OutboxPage=page.OutboxPage, sent_through=page.sent_through)
    return relay


IN_RELAY = {
    "a row is deleted before its acknowledgement": (
        "ids_by_queue(page.acknowledged)",
        "ids_by_queue([*page.acknowledged, *page.heads])",
    ),
    "hints are kept after a reconnect": (
        'self._sent_through, self._hints_read_at = {}, float("-inf")',
        "pass",
    ),
    "hints rise while a topic is unavailable": ("{} if away else ", ""),
    "hints ignore refused rows": (
        "acknowledged.get(queue, ()), hidden[queue]",
        "acknowledged.get(queue, ()), None",
    ),
    "hints are used before the commit": (
        "            self._save_hints(found)\n",
        "            self._save_hints(found)\n            self._sent_through.update(found)\n",
    ),
    "a refused record is not retried alone": ("for row in page.take_refused():", "for row in []:"),
}
IN_PAGE = {
    "all records of a key are sent at once": ("self._behind[place].append(row)", "self.heads.append(row)"),
    "the next record of a key is sent after a refusal": (
        "self.refused.append((row, error))\n",
        "self.refused.append((row, error))\n            return self.settle(row, Delivery.ACKNOWLEDGED)\n",
    ),
    "the hint is above a remaining row": ("*(number - 1 for number in left)", ""),
    "the hint is above the last row of the page": (
        "[max(ids, default=before), *(number - 1 for number in left)]",
        "[number - 1 for number in left] or [max(ids, default=before)]",
    ),
}


@pytest.mark.parametrize(
    "shell",
    [
        *(pytest.param((relay_module, change), id=name) for name, change in IN_RELAY.items()),
        *(pytest.param((outbox_page, change), id=name) for name, change in IN_PAGE.items()),
        pytest.param(RowsReadWithTheLock, id="rows are read in the statement that locks"),
        pytest.param(RefusalsReadWithTheLock, id="refusals are read in the statement that locks"),
        pytest.param(KeysHeldInEveryQueue, id="keys are blocked in every queue"),
        pytest.param(HintsNeverRestored, id="saved hints survive a restore of Postgres"),
    ],
)
def test_the_simulation_finds_each_mutant(shell: tuple[ModuleType, tuple[str, str]] | type[Outbox]) -> None:
    if not isinstance(shell, tuple):
        found = first_broken(Shell(outbox=shell))
    elif shell[0] is relay_module:
        found = first_broken(Shell(module=mutated(relay_module, *shell[1])))
    else:
        found = first_broken(Shell(module=relay_with_page(*shell[1])))
    assert found, f"no seed of {MUTANT_SEEDS} finds the mutant"


def test_the_simulation_accepts_an_unchanged_copy() -> None:
    same = relay_with_page("class OutboxPage:", "class OutboxPage:")
    assert first_broken(Shell(module=same), seeds=SEEDS // 8) is None


def first_broken(shell: Shell, *, seeds: int = MUTANT_SEEDS) -> str | None:
    """Returns the message of the first seed that fails; None if all seeds pass."""
    for seed in range(seeds):
        try:
            Simulation(seed, shell).run(TURNS)
        except Broken as broken:
            return str(broken)
    return None
