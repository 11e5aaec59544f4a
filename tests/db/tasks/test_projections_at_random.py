"""After failures, redrives, drops, stops, rebuilds and swaps in any order, all generations are correct."""

import random
from collections.abc import Iterator
from contextlib import suppress

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.rebuild.generation_locks import Behind
from sluice.admin.rebuild.resuming import resume
from tests.db.tasks.applying import thing_set
from tests.db.tasks.failing_projections import Bench, create, registry, shown
from tests.db.tasks.projecting import DECISION

STEPS = 40
KEYS = ("a", "b", "c")
FEW = (1, 6, 12)
SEEDS = [*FEW, *(pytest.param(n, marks=pytest.mark.soak) for n in range(20) if n not in FEW)]


def fussy(event: object) -> int:
    """Returns the amount of the event. Raises an error for every multiple of five."""
    amount: int = event.data.amount  # type: ignore[attr-defined]
    if amount % 5 == 0:
        raise ValueError("five")
    return amount


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    create(database_url)
    made = Bench(database_url, registry(fussy))
    yield made
    made.close()


class Course:
    """A random run of failing and of right code. Both have the same revision."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.random = random.Random(seed)
        self.failing = bench
        self.right = bench.with_code(registry())
        self.dropped: dict[int, set[int]] = {1: set()}
        """Maps generation → the offsets whose letters were dropped."""

    def run(self) -> None:
        """Runs random steps, then completes the remaining work by the right code."""
        steps = [self.batch, self.batch, self.batch, self.turn, self.redrive, self.drop]
        steps += [self.begin, self.swap, self.break_table, self.resume]
        for _ in range(STEPS):
            with suppress(Behind, OperationRefused):
                self.random.choice(steps)()
        self.right.catch_up()
        self.resume(self.right)
        for number, state in self.right.states().items():
            if state != "failed":
                for key in KEYS:
                    self.right.redrive_letters(key, number)
                self.right.rebuild(number)
                for key in KEYS:
                    self.right.redrive_letters(key, number)

    def who(self) -> Bench:
        """Returns, at random, the test bench of the failing code or of the right code."""
        return self.random.choice([self.failing, self.right])

    def batch(self) -> None:
        """Appends some events and applies them by either code."""
        log = self.failing.log
        for _ in range(self.random.randint(1, 6)):
            kind = self.random.choice([thing_set, shown])
            log.append(kind(len(log), self.random.choice(KEYS), self.random.randint(1, 30)))
        self.who().catch_up()

    def turn(self) -> None:
        """Runs a rebuild turn of every generation."""
        for number in self.right.states():
            self.who().rebuild(number)

    def redrive(self) -> None:
        """Redrives an entity in any generation that has not failed."""
        number = self.random.choice(list(self.right.states()))
        if self.right.states()[number] != "failed":
            self.who().redrive_letters(self.random.choice(KEYS), number)

    def drop(self) -> None:
        """Drops the first letter of an entity in the live generation.

        Does nothing while another generation is being built.
        """
        states = self.right.states()
        live = self.live()
        key = self.random.choice(KEYS)
        found = [one for one in self.right.letters(live) if one[1] == key and one[3] in ("dead", "waiting")]
        if found and "building" not in states.values() and "resuming" not in states.values():
            assert self.right.drop_letter(key, live)
            self.dropped[live].add(found[0][0])

    def live(self) -> int:
        """Returns the live generation."""
        query = "SELECT live_generation FROM sluice.projections WHERE projection = 'totals'"
        return int(self.right.look(query)[0][0])

    def begin(self) -> None:
        """Begins a generation, unless three have begun."""
        if len(self.dropped) < 3:
            live = self.live()
            self.dropped[self.right.begin()] = set(self.dropped[live])

    def swap(self) -> None:
        """Swaps to any generation without open letters."""
        number = self.random.choice(list(self.dropped))
        if not [one for one in self.right.letters(number) if one[3] in ("dead", "waiting")]:
            self.right.swap(number)

    def break_table(self) -> None:
        """Applies a batch while the table of the live generation is missing."""
        table = f"totals_g{self.live()}"
        self.right.look(f"ALTER TABLE {table} RENAME TO away")
        self.batch()
        self.right.look(f"ALTER TABLE away RENAME TO {table}")

    def resume(self, by: Bench | None = None) -> None:
        """Resumes every stopped generation."""
        for number, state in self.right.states().items():
            who = by or self.who()
            if state == "stopped":
                list(resume(who.session, who.redriver(), who.generation(number), DECISION))
            if state in ("stopped", "resuming"):
                who.rebuild(number)

    def oracle(self, dropped: set[int]) -> dict[str, tuple[int, int]]:
        """Returns (amount, seen) of each thing after all events except the dropped events."""
        rows: dict[str, tuple[int, int]] = {}
        for record in self.failing.log:
            if record.offset not in dropped:
                assert record.key is not None
                event = record.value
                assert event is not None
                amount = int(event.rpartition(b'"amount": ')[2].rstrip(b"}"))
                key = record.key.decode()
                rows[key] = (amount, rows.get(key, (0, 0))[1] + 1)
        return rows


@pytest.mark.parametrize("seed", SEEDS)
def test_every_generation_holds_all_events_that_were_not_dropped(bench: Bench, seed: int) -> None:
    course = Course(bench, seed)
    try:
        course.run()
        assert bench.halted() == []
        assert bench.outcomes() == {"applied": len(bench.log)}
        assert bench.labelled() == course.oracle(set()), "the other projection has all events"
        kept = [number for number, state in bench.states().items() if state != "failed"]
        found = {number: bench.rows(number) for number in kept}
        assert found == {number: course.oracle(course.dropped[number]) for number in kept}
    finally:
        course.right.close()
