"""The delivery protocol in a hostile world: hundreds of seeds hold, and every mutant is caught."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import structlog

from sluice.bridge.inflight import Inflight, Watermarks
from sluice.bridge.loop import Bridge
from sluice.bridge.progress_store import Progress
from sluice.db.delivery.progress import Assignment
from sluice.kafka_io.consumer import Consumer
from sluice.runtime.place import Place
from sluice.tasks.apply.guard import Judgement, judge
from tests.simulation.seeds import draw_seeds
from tests.simulation.simulated_services import Broken, ProgressStore
from tests.simulation.simulation import Shell, World

SEEDS = 400  # at least; every mutant is caught by one of them
BLOCKS = 8  # so that pytest's workers share them
MUTANT_SEEDS = 400
TURNS = 500

REAL = Shell()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.mark.parametrize("block", range(BLOCKS))
def test_nothing_is_lost_reordered_or_applied_twice(block: int, request: pytest.FixtureRequest) -> None:
    fixed = range(block * SEEDS // BLOCKS, (block + 1) * SEEDS // BLOCKS)
    for seed in draw_seeds(fixed, request):
        World(seed, REAL).play(TURNS)


class OlderEpochsRead(ProgressStore):
    """Lane rows are looked up without the epoch."""

    def _read(self, places: Iterable[Place]) -> dict[Place, Assignment]:
        pg = self.world.pg
        newest: dict[Place, dict[str, int]] = {}
        for (place, queue, _), offset in pg.lanes.items():
            lanes = newest.setdefault(place, {})
            lanes[queue] = max(offset, lanes.get(queue, -1))
        return {p: pg.assignment(p, newest.get(p, {})) for p in places} if pg.registered else {}


class TwoTransactions(ProgressStore):
    """Progress is read in one transaction, the watermark written in another."""

    def settle_progress(self, places: Iterable[Place], decide: Callable[[Progress], Watermarks]) -> None:
        watermarks = decide(self.read_progress(places))
        self.world.meanwhile()
        self._write(watermarks)


class SeveralStatements(ProgressStore):
    """An assignment is read in several statements."""

    def read_assignments(self, places: Iterable[Place]) -> dict[Place, Assignment]:
        wanted = list(places)
        first = super().read_assignments(wanted)
        if self.world.unlucky(0.5):
            self.world.move_back()
        second = self._read(wanted)
        return {
            place: Assignment(
                then.topic_id,
                then.entity,
                then.epoch,
                then.shards,
                then.partition_epoch,
                then.watermark,
                second[place].applied if place in second else {},
            )
            for place, then in first.items()
        }


class PolledBeforeSeekUsed(Bridge):
    """A new partition is started, and then what was polled before is held."""

    def _read(self, consumer: Consumer, now: float) -> None:
        polled = consumer.poll(0.0)
        self._forget_changed(consumer)
        self._start(consumer, now)
        self._take(consumer, polled, now)


def _judge_without_prev(*, prev: int, applied_offset: int, **rest: Any) -> Judgement:
    return judge(prev=min(prev, applied_offset), applied_offset=applied_offset, **rest)


def _first_broken(shell: Shell) -> str | None:
    for seed in range(MUTANT_SEEDS):
        try:
            World(seed, shell).play(TURNS)
        except Broken as broken:
            return str(broken)
    return None


@pytest.mark.parametrize(
    "shell",
    [
        Shell(store=OlderEpochsRead),
        Shell(store=TwoTransactions),
        Shell(store=SeveralStatements),
        Shell(bridge=PolledBeforeSeekUsed),
        Shell(judge=_judge_without_prev),
    ],
    ids=[
        "lane rows of an older epoch read",
        "progress read and watermark written in two transactions",
        "assignment read in several statements",
        "records polled before the seek used",
        "prev not checked",
    ],
)
def test_the_simulation_catches(shell: Shell) -> None:
    assert _first_broken(shell), f"no seed of {MUTANT_SEEDS} shows it"


def test_the_simulation_catches_a_watermark_from_the_position(monkeypatch: pytest.MonkeyPatch) -> None:
    # Written from the position while something is unapplied.
    def watermarks(self: Inflight) -> Watermarks:
        return {p: (held.assignment.epoch, held.position) for p, held in self.partitions.items()}

    monkeypatch.setattr(Inflight, "watermarks", watermarks)
    assert _first_broken(REAL), f"no seed of {MUTANT_SEEDS} shows it"


@pytest.mark.parametrize("known", [True, False], ids=["what is paused", "that nothing is known yet"])
def test_the_simulation_catches_a_bridge_that_forgets(monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    paused_by_hand = Inflight.paused_by_hand

    def forgetful(self: Inflight) -> frozenset[Place]:
        unknown = self._paused_topics is None
        return frozenset() if unknown is not known else paused_by_hand(self)

    monkeypatch.setattr(Inflight, "paused_by_hand", forgetful)
    broken = _first_broken(REAL)
    assert broken is not None
    assert "although paused" in broken
