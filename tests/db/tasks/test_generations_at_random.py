"""All generations agree after batches, interrupted rebuild turns, redrives and swaps in any order."""

import random
from collections.abc import Callable, Iterable, Iterator

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.rebuild import generation_changes
from sluice.admin.rebuild.generation_locks import Behind
from sluice.db.projections.generation_lanes import FOLDED
from sluice.kafka_io import partition_reader
from sluice.kafka_io.record_types import Record
from sluice.runtime.fault_points import faults
from sluice.tasks.apply import generation_writer
from sluice.tasks.rebuild.rebuild_lane import RebuildLane
from tests.db.tasks.applying import thing_set
from tests.db.tasks.projecting import DECISION, Bench, create, poison, registry
from tests.mutants import mutated

STEPS = 45
KEYS = ("a", "b", "c", "d")
SEEDS = range(6)
POINTS = ("rebuild.before_commit", "rebuild.committed", "apply.before_commit", "apply.committed",
          "redrive.before_commit", "redrive.committed", "swap.before_commit", "swap.committed")  # fmt: skip


@pytest.fixture
def bench(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    create(database_url)
    # With these small sizes, a partition has many chunks. Many of them contain the offset of the live
    # generation.
    monkeypatch.setattr("sluice.tasks.rebuild.rebuild_lane.CHUNK_RECORDS", 3)
    monkeypatch.setattr(partition_reader, "MAX_RECORDS", 4)
    monkeypatch.setattr(RebuildLane, "__init__", _small(RebuildLane.__init__))
    monkeypatch.setattr("sluice.runtime.fault_points.FaultInjected", Killed)
    made = Bench(database_url)
    made.add_queues(3)
    yield made
    faults.arm("")
    made.close()


class Killed(BaseException):
    """Simulates the end of a process and of its connection. No code catches this error."""


def _small(plain: Callable[..., None]) -> Callable[..., None]:
    def make(self: object, *arguments: object, **named: object) -> None:
        plain(self, *arguments, **named)
        self.most = 3  # type: ignore[attr-defined]

    return make


class Course:
    """A random run of old and new code.

    The amounts of old and new code differ by a factor. `mended` code accepts poison events.
    """

    def __init__(self, bench: Bench, seed: int, *, factor: int, swaps: bool) -> None:
        self.random = random.Random(seed)
        self.old = bench
        self.new = bench.with_code(registry(2, factor))
        self.mended = [
            bench.with_code(registry(1, 1, mended=True)),
            bench.with_code(registry(2, factor, mended=True)),
        ]
        self.swaps = swaps
        self.queues = bench.queues()
        self.generations: list[int] = []
        self.events = self.topics = 0

    def run(self) -> None:
        """Runs all steps with faults, then completes the remaining work without faults."""
        steps = [self.batch, self.batch, self.batch, self.turn, self.turn, self.redrive, self.begin]
        steps += [self.compact, self.accept] if self.random.random() < 0.5 else []
        steps += [self.swap] * self.swaps
        for _ in range(STEPS):
            point = self.random.choice(POINTS)
            faults.arm(f"{point}:{self.random.randint(1, 3)}:raise" if self.random.random() < 0.4 else "")
            try:
                self.random.choice(steps)()
            except Killed:
                for one in (self.old, self.new, *self.mended):
                    one.session.close()
            except (Behind, OperationRefused, generation_writer.NotThisRevision):
                pass
        faults.arm("")
        self.mended[1].catch_up()
        for generation in self.synced():
            assert self.mended[1].rebuild(generation), self.old.states()
        for key in KEYS:
            self.mended[1].redrive(key)
        for generation in self.synced():
            assert self.mended[1].rebuild(generation), self.old.states()

    def batch(self) -> None:
        """Appends events, some of them repeated or poison events. Applies them by the old or the new code."""
        who = self.random.choice([self.old, self.new])
        log = self.old.log
        for _ in range(self.random.randint(1, 8)):
            log.append(self.event()._replace(offset=log[-1].offset + 1 if log else 0))
        who.catch_up(self.random.choices(self.queues, k=self.random.randint(1, 3)))

    def event(self) -> Record:
        """Returns the next event. The caller sets its offset."""
        key = self.random.choice(KEYS)
        self.events += 1
        if self.random.random() < 0.1:
            return poison(self.events, key, self.events)
        if self.old.log and self.random.random() < 0.1:
            return self.random.choice(self.old.log)
        return thing_set(self.events, key, self.events)

    def compact(self) -> None:
        """Removes records that the log repeats at a later offset."""
        log = self.old.log
        values = [record.value for record in log]
        lost = [
            n for n, value in enumerate(values) if value in values[n + 1 :] and self.random.random() < 0.7
        ]
        log[:] = [record for n, record in enumerate(log) if n not in lost]

    def accept(self) -> None:
        """Accepts the topic with a new log, as if it was created again or moved.

        The new log has all events at other offsets, and some of them two times.
        """
        faults.arm("")
        offset, log = self.random.randrange(9), []
        for record in self.old.log:
            again = [record, self.random.choice(self.old.log)] if self.random.random() < 0.1 else [record]
            for one in again:
                log.append(one._replace(offset=offset))
                offset += self.random.choice((1, 1, 3))
        self.topics += 1
        self.old.accept(log, f"id-{self.topics // 2}")
        for generation, state in self.old.states().items():
            if state == "failed":
                generation_changes.drop(self.old.session, self.old.generation(generation), DECISION)
        self.generations = []
        if self.swaps:
            # Events that were applied before are not applied again. So the new generation must already
            # contain them at a swap.
            self.random.choice([self.old, self.new]).catch_up()
        elif log and self.random.random() < 0.5:
            # A rebuild catches up with the live generation while workers still read the new log.
            self.new.catch_up(through=self.random.choice(log).offset)
            self.begin()
            self.new.rebuild(self.generations[0])
            self.new.catch_up(through=self.random.choice(log).offset)

    def turn(self) -> None:
        """Runs a rebuild turn of any generation by the old or the new code."""
        if self.generations:
            who = self.random.choice([self.old, self.new])
            who.rebuild(self.random.choice(self.generations), self.meanwhile)

    def meanwhile(self) -> None:
        """Sometimes applies a batch while a turn reads."""
        if self.random.random() < 0.3:
            self.batch()

    def redrive(self) -> None:
        """Redrives an entity by code that accepts poison events."""
        self.random.choice(self.mended).redrive(self.random.choice(KEYS))

    def begin(self) -> None:
        """Begins a generation by the new code, unless three have begun."""
        if len(self.generations) < 3:
            self.generations.append(self.new.begin())

    def swap(self) -> None:
        """Swaps to any generation."""
        self.new.swap(self.random.choice(sorted(self.old.states())))

    def synced(self) -> list[int]:
        """Returns the generations that are neither live nor failed."""
        return [
            number for number, state in self.old.states().items() if state in ("building", "ready", "retired")
        ]

    def close(self) -> None:
        """Closes the benches that `__init__` opened."""
        for one in (self.new, *self.mended):
            one.close()


def _mutant_writer() -> type[generation_writer.GenerationWriter]:
    was = ">= before.get(lane, NOTHING_APPLIED)"
    return mutated(generation_writer, was, ">= NOTHING_APPLIED").GenerationWriter  # type: ignore[no-any-return]


MUTANTS: list[tuple[str, str, object]] = [
    (
        "a lagging generation is kept in sync",
        "sluice.tasks.apply.apply.GenerationWriter",
        _mutant_writer(),
    ),
    (
        "redriven events are not written",
        "sluice.tasks.redrive.GenerationWriter.sync_redriven",
        lambda *_: None,
    ),
    (
        "code of any revision keeps a generation in sync",
        "sluice.db.projections.generations.SyncedGeneration.takes",
        lambda *_: True,
    ),
    (
        "events that were not applied are folded",
        "sluice.tasks.rebuild.chunk_folder.judge_record",
        lambda *_: FOLDED,
    ),
    (
        "events are known only by their offsets",
        "sluice.tasks.rebuild.chunk_folder.ChunkFolder._take_repeats",
        lambda *_: set(),
    ),
    (
        "repeats are skipped for generations that lack the event",
        "sluice.tasks.apply.generation_writer.lagging_places",
        lambda *_: frozenset(),
    ),
    (
        "a swap does not require lockstep",
        "sluice.admin.rebuild.generation_changes.require_lockstep",
        lambda *_: None,
    ),
    (
        "the previous generation does not store its offset",
        "sluice.db.projections.generation_lag.follow_live",
        lambda *_: None,
    ),
]


@pytest.mark.parametrize(
    ("place", "instead"),
    [
        pytest.param(place, instead, id=name, marks=() if number < 2 else pytest.mark.matrix)
        for number, (name, place, instead) in enumerate(MUTANTS)
    ],
)
def test_random_courses_catch_the_mutant(
    database_url: str, bench: Bench, monkeypatch: pytest.MonkeyPatch, place: str, instead: object
) -> None:
    monkeypatch.setattr(place, instead)
    with pytest.raises(AssertionError):
        run_courses(bench, range(12))


def run_course(bench: Bench, seed: int, *, factor: int, swaps: bool) -> None:
    """Runs one course. Raises AssertionError if a generation has other rows than expected."""
    course = Course(bench, seed, factor=factor, swaps=swaps)
    try:
        course.run()
        live = next(number for number, state in bench.states().items() if state == "live")
        assert "failed" not in bench.states().values()
        want = bench.rows(live)
        if not swaps:
            # Either code may have applied an event. In the end, each generation must have the rows of the new
            # code.
            third = course.mended[1].begin()
            assert course.mended[1].rebuild(third)
            want = bench.rows(third)
            assert {key: seen for key, (_, seen) in want.items()} == {
                key: seen for key, (_, seen) in bench.rows(live).items()
            }
            assert all(amount % factor == 0 for amount, _ in want.values())
        for number in bench.states() if swaps else course.generations:
            assert bench.rows(number) == want, f"seed {seed}, generation {number}"
    finally:
        course.close()


def run_courses(bench: Bench, seeds: Iterable[int]) -> None:
    """Runs one course per seed, each from an empty state.

    With even seeds, generations are swapped. With odd seeds, old and new code compute different amounts.
    """
    for seed in seeds:
        run_course(bench, seed, factor=1 + 9 * (seed % 2), swaps=seed % 2 == 0)
        bench.reset()


@pytest.mark.parametrize("seed", SEEDS)
def test_all_generations_agree_after_swaps(bench: Bench, seed: int) -> None:
    run_course(bench, seed, factor=1, swaps=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_all_generations_agree_in_a_rolling_deployment(bench: Bench, seed: int) -> None:
    run_course(bench, seed, factor=10, swaps=False)
