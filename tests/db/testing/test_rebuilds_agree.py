"""For random logs, a rebuild in memory and a rebuild in Postgres produce the same rows."""

import random
from collections.abc import Callable

import pytest

from sluice.admin.redrive import plan_redrive
from sluice.db.admin.letters import Chosen
from sluice.kafka_io.record_types import Record
from sluice.tasks.redrive import Redriver
from sluice.testing import refolding
from sluice.testing.folded_log import FoldedLog
from tests.db.tasks.applying import TOPIC, TOPIC_ID, made, thing_set
from tests.db.tasks.projecting import Bench, bench, opened, registry, totals

__all__ = ["bench", "opened"]
RECORDS = 60
KEYS = ("a", "b", "c", "d")


def random_log(rng: random.Random) -> list[Record]:
    """Returns events of four entities. Some events fail, and some are sent again."""
    log: list[Record] = []
    for offset in range(RECORDS):
        key, amount = rng.choice(KEYS), rng.randint(1, 9)
        if rng.random() < 0.1 and log:
            log.append(rng.choice(log)._replace(offset=offset))
        elif rng.random() < 0.1:
            # The name is too long. A corrected handler shortens the name, and the short name is still unique.
            name = f"{offset:05}".ljust(40, "0")
            log.append(made(offset, "thing.set", key, amount=amount, name=name))
        else:
            log.append(thing_set(offset, key, amount, version=rng.randint(1, 20)))
    return log


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.matrix) for seed in range(2, 20))]
)
def test_rows_after_redrives_and_a_rebuild_are_equal(
    seed: int, bench: Bench, opened: Callable[[Bench], Bench]
) -> None:
    rng = random.Random(seed)
    records = random_log(rng)
    log = FoldedLog(bench.registry)
    bench.live(*records)
    for record in records:
        log.take(TOPIC, TOPIC_ID, 0, record)
    assert rows_of(log) == bench.rows()

    if seed % 2:
        mended = opened(bench.with_code(registry(1, mended=True)))
        log.registry = mended.registry
        redrive(mended)
        refolding.redrive(log)
        assert rows_of(log) == bench.rows()

    corrected = opened(bench.with_code(registry(2, factor=3, mended=bool(seed % 2))))
    log.registry = corrected.registry
    generation = corrected.begin()
    while not corrected.rebuild(generation):
        pass
    before = rows_of(log)
    changed = refolding.rebuild(log, totals)
    assert rows_of(log) == corrected.rows(generation)
    assert set(changed) == {key for key in before if before[key] != rows_of(log)[key]}


def redrive(bench: Bench) -> None:
    """Redrives in the order of `sluice dlq redrive --all`: entities (oldest first), then conflicts."""
    plan = plan_redrive(bench.session, Chosen())
    for one in plan.entities:
        bench.redrive(one.entity_key)
    redriver = Redriver(bench.session, bench.registry, bench.read_whole)
    for conflict in plan.conflicts:
        redriver.redrive_letter(conflict.entity, conflict.id, conflict.entity_key)


def rows_of(log: FoldedLog) -> dict[str, tuple[int, int]]:
    return {
        key: (row.values["amount"], row.values["seen"])
        for (table, key), row in log.rows.items()
        if table is totals and row.values is not None
    }
