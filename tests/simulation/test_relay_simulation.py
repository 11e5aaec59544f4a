"""Relays in a hostile world: hundreds of seeds hold, and every mutant is caught."""

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
from tests.simulation.relay_simulation import Shell, World
from tests.simulation.relay_surroundings import Broken, Postgres
from tests.simulation.seeds import draw_seeds

SEEDS = 400  # at least; every mutant is caught by one of them
BLOCKS = 4  # so that pytest's workers share them
MUTANT_SEEDS = 400
TURNS = 150


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.mark.parametrize("block", range(BLOCKS))
def test_nothing_is_lost_invented_or_out_of_order(block: int, request: pytest.FixtureRequest) -> None:
    fixed = range(block * SEEDS // BLOCKS, (block + 1) * SEEDS // BLOCKS)
    for seed in draw_seeds(fixed, request):
        World(seed, Shell()).play(TURNS)


class RowsReadWithTheLock(Outbox):
    """The page is as old as the statement that locked."""

    def page_state(self, pg: Postgres) -> Postgres:
        return self.snapshot


class RefusalsReadWithTheLock(Outbox):
    """The lowest refused is as old as the statement that locked."""

    def lowest_refused(self, pg: Postgres) -> dict[str, int | None]:
        return super().lowest_refused(self.snapshot)


class KeysHeldInEveryQueue(Outbox):
    """A refused record holds its key in other queues, too."""

    def is_held(self, pg: Postgres, row: WaitingRow) -> bool:
        refused = pg.refusals.values()
        return super().is_held(pg, row) or any((r.topic, r.key) == (row.topic, row.key) for r in refused)


class HintsNeverRestored(Outbox):
    """What was saved outlives the state of Postgres it was true of."""

    saved: Mapping[str, int] = {}

    def save_sent_through(self, sent_through: Mapping[str, int]) -> None:
        self.saved = {**self.saved, **sent_through}

    def read_sent_through(self) -> dict[str, int]:
        return {**super().read_sent_through(), **self.saved}


def relay_with_page(old: str, new: str) -> ModuleType:
    """The relay's module over a mutated page."""
    relay, page = mutated(relay_module, "class Relay:", "class Relay:"), mutated(outbox_page, old, new)
    vars(page).update(Delivery=Delivery)  # what the broker answers with
    vars(relay).update(OutboxPage=page.OutboxPage, sent_through=page.sent_through)
    return relay


IN_RELAY = {
    "deleted before it is acknowledged": (
        "ids_by_queue(page.acknowledged)",
        "ids_by_queue([*page.acknowledged, *page.heads])",
    ),
    "hints kept over a reconnect": ("self._sent_through, self._hints_of = {}, None", "pass"),
    "hints advanced while a topic is away": ("{} if away else ", ""),
    "refused ones unknown to the hint": (
        "acknowledged.get(queue, ()), hidden[queue]",
        "acknowledged.get(queue, ()), None",
    ),
    "hints believed before the commit": (
        "            self._save_hints(found)\n",
        "            self._save_hints(found)\n            self._sent_through.update(found)\n",
    ),
    "suspects not tried alone": ("for row in page.take_refused():", "for row in []:"),
}
IN_PAGE = {
    "all of a key handed over at once": ("self._behind[place].append(row)", "self.heads.append(row)"),
    "the next one handed over whatever became of the first": (
        "self.refused.append((row, error))\n",
        "self.refused.append((row, error))\n            return self.settle(row, Delivery.ACKNOWLEDGED)\n",
    ),
    "hint advanced past what is left": ("*(number - 1 for number in left)", ""),
    "hint above the page": (
        "[max(ids, default=before), *(number - 1 for number in left)]",
        "[number - 1 for number in left] or [max(ids, default=before)]",
    ),
}


@pytest.mark.parametrize(
    "shell",
    [
        *(pytest.param((relay_module, change), id=name) for name, change in IN_RELAY.items()),
        *(pytest.param((outbox_page, change), id=name) for name, change in IN_PAGE.items()),
        pytest.param(RowsReadWithTheLock, id="rows read with the lock"),
        pytest.param(RefusalsReadWithTheLock, id="refusals read with the lock"),
        pytest.param(KeysHeldInEveryQueue, id="keys held in every queue"),
        pytest.param(HintsNeverRestored, id="saved hints survive their Postgres"),
    ],
)
def test_the_simulation_catches(shell: tuple[ModuleType, tuple[str, str]] | type[Outbox]) -> None:
    if not isinstance(shell, tuple):
        found = first_broken(Shell(outbox=shell))
    elif shell[0] is relay_module:
        found = first_broken(Shell(module=mutated(relay_module, *shell[1])))
    else:
        found = first_broken(Shell(module=relay_with_page(*shell[1])))
    assert found, f"no seed of {MUTANT_SEEDS} shows it"


def test_a_copy_that_is_not_changed_is_not_caught() -> None:
    same = relay_with_page("class OutboxPage:", "class OutboxPage:")
    assert first_broken(Shell(module=same), seeds=SEEDS // 8) is None


def first_broken(shell: Shell, *, seeds: int = MUTANT_SEEDS) -> str | None:
    """What the first seed says that shows it."""
    for seed in range(seeds):
        try:
            World(seed, shell).play(TURNS)
        except Broken as broken:
            return str(broken)
    return None
