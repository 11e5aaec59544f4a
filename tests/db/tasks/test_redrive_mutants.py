"""A redrive with a corrected handler, and the mutants of the redrive that this scenario catches."""

import inspect

import pytest

from sluice.db.connection import BATCH_PLANS, Session
from sluice.tasks import redrive
from sluice.tasks.apply import fold_io
from sluice.tasks.redrive import Redriver
from tests.db.tasks import applying, failing
from tests.db.tasks.applying import Bench, nothing_in_kafka, slice_of, thing_set
from tests.db.tasks.redriving import broken, mend, parked, remembered
from tests.mutants import mutated

bench, redriver = applying.bench, failing.redriver


def run_scenario(bench: Bench, redriver: Redriver) -> None:
    """Runs a blocked redrive, a redrive with the corrected handler, and a later event."""
    bench.apply(slice_of([broken(0), thing_set(1, amount=5)]))
    assert redriver.redrive_once("thing", "k").blocked_by is not None
    assert parked(bench) == [("k",)]
    bench.apply(slice_of([thing_set(2, amount=7)], prev=1))
    mend(bench)
    assert redriver.redrive_once("thing", "k").unparked
    assert bench.amounts() == {"k": 7}
    assert bench.outcomes() == {"applied": 3}
    assert remembered(bench) == [(0, "applied"), (1, "applied"), (2, "applied")]
    bench.apply(slice_of([thing_set(3, amount=9)], prev=2))
    assert bench.amounts() == {"k": 9}


def test_a_blocked_redrive_succeeds_after_the_handler_is_corrected(bench: Bench, redriver: Redriver) -> None:
    run_scenario(bench, redriver)


REDRIVE_MUTANTS = {
    "the entity is unparked although letters are left": (
        "redriven.unparked = dead_letters.unpark_if_clear(self._session, entity, key, self._skipping)",
        "redriven.unparked = self._session.command("
        "f\"DELETE FROM sluice.parked_entities WHERE key = '{key}'\") is None",
        "if redriven.holds is None:",
        "if True:",
    ),
    "the counters are not changed": ("        self._recount(letters, settled)\n", ""),
    "the outcomes are not changed": ("        self._remember(letters, settled)\n", ""),
    "the letters stay open": (
        "dead_letters.finish_letters(self._session, [letter.id], LetterState.DONE)",
        "pass",
    ),
}


@pytest.mark.parametrize("changes", REDRIVE_MUTANTS.values(), ids=REDRIVE_MUTANTS)
def test_the_scenario_catches_the_mutant(bench: Bench, database_url: str, changes: tuple[str, ...]) -> None:
    module = mutated(redrive, *changes[:2])
    for old, new in zip(changes[2::2], changes[3::2], strict=True):
        source = inspect.getsource(redrive).replace(changes[0], changes[1]).replace(old, new)
        exec(compile(source, "mutant", "exec"), vars(module))
    session = Session(database_url, application_name="test mutant", plans=BATCH_PLANS)
    try:
        with pytest.raises(AssertionError):
            run_scenario(bench, module.Redriver(session, bench.registry, nothing_in_kafka))
    finally:
        session.close()


def test_the_scenario_catches_a_redrive_that_checks_its_own_identity(
    bench: Bench, redriver: Redriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = mutated(fold_io, "if own.get(identity) != known[1:]:", "if True:")
    monkeypatch.setattr("sluice.tasks.apply.batch_writer.FoldIO", mutant.FoldIO)
    with pytest.raises(AssertionError):
        run_scenario(bench, redriver)
