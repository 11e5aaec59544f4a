"""The delivery protocol under random failures: hundreds of seeds pass, and every mutant fails."""

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
from tests.simulation.simulation import Shell, Simulation

SEEDS = 400  # At least this many seeds run. Each mutant fails for one of these seeds.
BLOCKS = 8  # Pytest workers run the blocks in parallel.
MUTANT_SEEDS = 400
TURNS = 500

REAL = Shell()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_record_is_lost_reordered_or_applied_twice(block: int, request: pytest.FixtureRequest) -> None:
    fixed = range(block * SEEDS // BLOCKS, (block + 1) * SEEDS // BLOCKS)
    for seed in draw_seeds(fixed, request):
        Simulation(seed, REAL).run(TURNS)


class OlderEpochsRead(ProgressStore):
    """A mutant that reads the lane rows of every epoch."""

    def _read(self, places: Iterable[Place]) -> dict[Place, Assignment]:
        pg = self.simulation.pg
        newest: dict[Place, dict[str, int]] = {}
        for (place, queue, _), offset in pg.lanes.items():
            lanes = newest.setdefault(place, {})
            lanes[queue] = max(offset, lanes.get(queue, -1))
        return {p: pg.assignment(p, newest.get(p, {})) for p in places} if pg.registered else {}


class TwoTransactions(ProgressStore):
    """A mutant that reads progress and writes the watermark in two transactions."""

    def settle_progress(self, places: Iterable[Place], decide: Callable[[Progress], Watermarks]) -> None:
        self._reach()
        watermarks = decide(self._progress(places))
        self.simulation.meanwhile()
        self._write(watermarks)


class SeveralStatements(ProgressStore):
    """A mutant that reads an assignment in several statements, between which rows may change."""

    def read_assignments(self, places: Iterable[Place]) -> dict[Place, Assignment]:
        wanted = list(places)
        first = super().read_assignments(wanted)
        if self.simulation.unlucky(0.5):
            self.simulation.move_back()
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
    """A mutant that starts a new partition and then takes records that were polled before the seek."""

    def _read(self, consumer: Consumer, now: float) -> float:
        polled = consumer.poll(0.0)
        self._forget_changed(consumer)
        self._start(consumer, now)
        self._take(consumer, polled, now)
        return now


class PausedAfterThePoll(Bridge):
    """A mutant that polls one time between the reading of a pause and the pause of the consumer."""

    def _bound(self, consumer: Consumer) -> None:
        pass

    def _start(self, consumer: Consumer, now: float) -> None:
        super()._start(consumer, now)
        super()._bound(consumer)


def _judge_without_prev(*, prev: int, applied_offset: int, **rest: Any) -> Judgement:
    return judge(prev=min(prev, applied_offset), applied_offset=applied_offset, **rest)


def _first_broken(shell: Shell) -> str | None:
    for seed in range(MUTANT_SEEDS):
        try:
            Simulation(seed, shell).run(TURNS)
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
        Shell(bridge=PausedAfterThePoll),
        Shell(judge=_judge_without_prev),
    ],
    ids=[
        "lane rows of an older epoch are read",
        "progress and watermark have separate transactions",
        "an assignment is read in several statements",
        "records polled before the seek are taken",
        "the consumer is paused after the next poll",
        "prev is not checked",
    ],
)
def test_the_simulation_finds_each_mutant(shell: Shell) -> None:
    assert _first_broken(shell), f"no seed of {MUTANT_SEEDS} finds the mutant"


def test_the_simulation_finds_a_watermark_that_is_set_to_the_position(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The mutant writes the position as the watermark, although records may be unapplied.
    def watermarks(self: Inflight) -> Watermarks:
        return {p: (held.assignment.epoch, held.position) for p, held in self.partitions.items()}

    monkeypatch.setattr(Inflight, "watermarks", watermarks)
    assert _first_broken(REAL), f"no seed of {MUTANT_SEEDS} finds the mutant"


@pytest.mark.parametrize(
    "known", [True, False], ids=["known pauses are ignored", "unknown pauses are ignored"]
)
def test_the_simulation_finds_a_bridge_that_reads_paused_topics(
    monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    paused_by_hand = Inflight.paused_by_hand

    def ignores_pauses(self: Inflight) -> frozenset[Place]:
        unknown = self._paused_topics is None
        return frozenset() if unknown is not known else paused_by_hand(self)

    monkeypatch.setattr(Inflight, "paused_by_hand", ignores_pauses)
    broken = _first_broken(REAL)
    assert broken is not None
    assert "although paused" in broken
