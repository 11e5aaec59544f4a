"""Failing code, redrives, drops, stops, rebuilds and swaps in any order: each generation is right."""

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
    """Code that fails at every fifth amount."""
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


class Play:
    """One seeded course of events. The failing and the right code are of one revision."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.random = random.Random(seed)
        self.failing = bench
        self.right = bench.with_code(registry())
        self.dropped: dict[int, set[int]] = {1: set()}
        """Generation → offsets that were dropped for it."""

    def run(self) -> None:
        """All steps, then everything that is left to do, by the right code."""
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
        """Either code."""
        return self.random.choice([self.failing, self.right])

    def batch(self) -> None:
        """Some events, applied by either code."""
        log = self.failing.log
        for _ in range(self.random.randint(1, 6)):
            kind = self.random.choice([thing_set, shown])
            log.append(kind(len(log), self.random.choice(KEYS), self.random.randint(1, 30)))
        self.who().catch_up()

    def turn(self) -> None:
        """A rebuild worker."""
        for number in self.right.states():
            self.who().rebuild(number)

    def redrive(self) -> None:
        """Of any generation."""
        number = self.random.choice(list(self.right.states()))
        if self.right.states()[number] != "failed":
            self.who().redrive_letters(self.random.choice(KEYS), number)

    def drop(self) -> None:
        """The first letter of an entity in the live generation, while no other one is filled."""
        states = self.right.states()
        live = self.live()
        key = self.random.choice(KEYS)
        found = [one for one in self.right.letters(live) if one[1] == key and one[3] in ("dead", "waiting")]
        if found and "building" not in states.values() and "resuming" not in states.values():
            assert self.right.drop_letter(key, live)
            self.dropped[live].add(found[0][0])

    def live(self) -> int:
        """The generation that readers see."""
        query = "SELECT live_generation FROM sluice.projections WHERE projection = 'totals'"
        return int(self.right.look(query)[0][0])

    def begin(self) -> None:
        """Another generation."""
        if len(self.dropped) < 3:
            live = self.live()
            self.dropped[self.right.begin()] = set(self.dropped[live])

    def swap(self) -> None:
        """To any of them that has no letters, or back."""
        number = self.random.choice(list(self.dropped))
        if not [one for one in self.right.letters(number) if one[3] in ("dead", "waiting")]:
            self.right.swap(number)

    def break_table(self) -> None:
        """The live generation's table is away for a batch."""
        table = f"totals_g{self.live()}"
        self.right.look(f"ALTER TABLE {table} RENAME TO away")
        self.batch()
        self.right.look(f"ALTER TABLE away RENAME TO {table}")

    def resume(self, by: Bench | None = None) -> None:
        """Every stopped generation goes on."""
        for number, state in self.right.states().items():
            who = by or self.who()
            if state == "stopped":
                list(resume(who.session, who.redriver(), who.generation(number), DECISION))
            if state in ("stopped", "resuming"):
                who.rebuild(number)

    def oracle(self, dropped: set[int]) -> dict[str, tuple[int, int]]:
        """thing → (amount, seen): all events but those that were dropped, in order."""
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
def test_every_generation_holds_what_it_must(bench: Bench, seed: int) -> None:
    play = Play(bench, seed)
    try:
        play.run()
        assert bench.halted() == []
        assert bench.outcomes() == {"applied": len(bench.log)}
        assert bench.labelled() == play.oracle(set()), "the other projection notices nothing"
        kept = [number for number, state in bench.states().items() if state != "failed"]
        found = {number: bench.rows(number) for number in kept}
        assert found == {number: play.oracle(play.dropped[number]) for number in kept}
    finally:
        play.right.close()
