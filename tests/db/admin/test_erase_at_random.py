"""Erasure after random steps: no table contains the erased key, even after its old records are read again."""

import random
from contextlib import suppress

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.rebuild.generation_locks import Behind
from sluice.admin.rebuild.report import compare
from sluice.kafka_io.record_types import Record
from sluice.tasks.apply.generation_writer import NotThisRevision
from tests.db.admin import erasing
from tests.db.admin.erasing import KEY, erase_key, mentions, of, registry, sent
from tests.db.tasks.applying import made, slice_of
from tests.db.tasks.projecting import Bench, poison

bench = erasing.bench
KEYS = (KEY, KEY, "bob", "cid")
STEPS = 25


class RandomRun:
    """A test bench, and steps that are drawn with a seed."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.random = random.Random(seed)
        self.bench = bench
        self.mended = bench.with_code(registry(mended=True))
        self.keys: tuple[str, ...] = KEYS
        self.applied = 0
        self.checkpoints = 0

    def event(self) -> Record:
        """Returns the next record of the log: valid, invalid, a repeat or a conflict."""
        log, key = self.bench.log, self.random.choice(self.keys)
        offset = len(log)
        kinds = [
            lambda: of(key, offset),
            lambda: of(key, offset),
            lambda: made(offset, "mood.set", key, event_id=f"{key}:{offset}"),
            lambda: made(offset, "mood.gone", key, event_id=f"{key}:{offset}"),
            lambda: poison(offset, key),
            lambda: made(offset, "no such type", key, about=key),
            lambda: Record(offset, 0, key.encode(), f'{{"for": "{key}"'.encode(), []),
        ]
        if log:
            again = [one for one in log if one.key != KEY.encode() or KEY in self.keys]
            kinds.append(lambda: self.random.choice(again or log)._replace(offset=offset))
            kinds.append(lambda: made(offset, "thing.set", key, event_id=f"{key}:0", amount=7, about=key))
        return self.random.choice(kinds)()

    def write(self) -> None:
        """Adds records to the log and does not apply them."""
        self.bench.log += [self.event() for _ in range(self.random.randint(1, 6))]

    def batch(self) -> None:
        """Adds records to the log and applies them."""
        self.write()
        self.random.choice([self.bench, self.mended]).catch_up()

    def redrive(self) -> None:
        self.mended.redrive(self.random.choice(self.keys))

    def begin(self) -> None:
        if len(self.bench.states()) < 4:
            self.bench.begin()

    def turn(self) -> None:
        for number, state in self.bench.states().items():
            if state in ("building", "ready", "retired"):
                self.bench.rebuild(number)

    def compared(self) -> None:
        for number, state in self.bench.states().items():
            if state == "ready":
                compare(self.bench.session, self.bench.registry, self.bench.generation(number))

    def swap(self) -> None:
        self.bench.swap(self.random.choice(list(self.bench.states())))

    def checkpoint(self) -> None:
        self.checkpoints += 1
        self.bench.checkpoint(f"c{self.checkpoints}")

    def accept(self) -> None:
        """Accepts the topic, whose log is then read again from the beginning."""
        self.bench.look("DELETE FROM sluice.lane_offsets")
        self.bench.look("UPDATE sluice.generations SET state = 'failed' WHERE state <> 'live'")

    def steps(self, number: int) -> None:
        """Runs a number of random steps."""
        for _ in range(number):
            step = self.random.choice(
                [self.batch, self.batch, self.batch, self.redrive, self.begin, self.turn, self.turn,
                 self.compared, self.swap, self.checkpoint, self.accept]
            )  # fmt: skip
            with suppress(Behind, OperationRefused, NotThisRevision):
                step()


@pytest.mark.parametrize("seed", range(6))
def test_no_table_contains_the_erased_key(bench: Bench, seed: int) -> None:
    run = RandomRun(bench, seed)
    bench.live(of(KEY, 0), of("bob", 1))
    run.steps(STEPS)
    assert mentions(bench)
    run.write()
    sent(bench)
    erase_key(bench)
    assert mentions(bench) == []
    # From here on, no new record has the key, but the old records in the log are read again.
    run.keys = ("bob", "cid")
    run.steps(STEPS)
    run.accept()
    run.bench.catch_up()
    run.begin()
    run.turn()
    run.redrive()
    assert mentions(bench) == []
    run.mended.close()


def test_an_event_after_the_erasure_does_not_repeat_a_call(bench: Bench) -> None:
    bench.live(of(KEY, 0))
    sent(bench)
    found = erase_key(bench)
    assert found.rows["executed_side_effects"] == 2
    [(effect_key, state, args)] = bench.look(
        "SELECT effect_key, state, args FROM sluice.executed_side_effects"
    )
    assert (effect_key.startswith("erased:"), state, args) == (True, "succeeded", None)
    bench.live(of(KEY, 1))
    calls = bench.look("SELECT effect_key FROM sluice.executed_side_effects WHERE explicit_once")
    assert calls == [(effect_key,)]
    assert bench.amounts() == {KEY: 1}


def test_tables_with_other_keys_are_reported_and_not_changed(bench: Bench) -> None:
    bench.live(of(KEY, 0), of("all", 1))
    sent(bench)
    found = erase_key(bench, "all")
    assert bench.look("SELECT sum_id, n FROM sums") == [("all", 2)]
    [said] = [one for one in found.not_searched if "sums" in one]
    assert said == (
        "table sums: events of thing write rows with other keys than their own; it has a row of this key;"
        " pass `--table sums` to delete it"
    )
    assert erase_key(bench, "all", tables=["sums"]).rows["sums"] == 1
    with pytest.raises(OperationRefused, match="table no is declared by no module"):
        erase_key(bench, tables=["no"])


def test_a_table_with_other_keys_is_noted_again_if_its_note_was_lost(bench: Bench) -> None:
    """A note is lost if its batch is rolled back."""
    bench.live(of("bob", 0))
    noted = bench.look("SELECT table_name, keyed_otherwise FROM sluice.entity_tables ORDER BY 1")
    assert noted == [("sums", True), ("things", False), ("totals", False)]
    bench.look("DELETE FROM sluice.entity_tables")
    bench.live(of("bob", 1))
    assert bench.look("SELECT table_name, keyed_otherwise FROM sluice.entity_tables ORDER BY 1") == noted


def test_a_table_is_noted_when_an_event_first_writes_a_row_with_another_key(bench: Bench) -> None:
    noted = "SELECT keyed_otherwise FROM sluice.entity_tables WHERE table_name = 'sums'"
    for number, (key, otherwise) in enumerate([("all", False), ("all", False), (KEY, True), ("all", True)]):
        bench.live(of(key, number))
        assert bench.look(noted) == [(otherwise,)]


def test_accepting_the_topic_does_not_restore_an_erased_entity(bench: Bench) -> None:
    bench.live(of(KEY, 0), of("bob", 1))
    sent(bench)
    erase_key(bench)
    bench.look("DELETE FROM sluice.lane_offsets")
    bench.apply(slice_of(bench.log))
    # The records that are read again are not counted again.
    assert bench.look("SELECT applied, duplicate, erased FROM sluice.lane_offsets") == [(0, 0, 0)]
    assert mentions(bench) == []
