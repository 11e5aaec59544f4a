"""Mutants of what an operator does to dead letters: each is told from the code."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from sluice.admin import redrive
from sluice.admin.decisions import OperationRefused
from sluice.db.admin import letters as letters_module
from sluice.db.admin.audit import Decision
from sluice.db.admin.letter_details import read_whole_letters
from sluice.db.admin.letters import Chosen, read_open_entities
from sluice.tasks.letter_redriver import LETTERS
from sluice.tasks.redrive import Redriver
from tests.db.tasks import applying, failing
from tests.db.tasks.applying import Bench, slice_of, thing_set
from tests.db.tasks.failing import allow, audits, fill
from tests.mutants import mutated

bench, redriver = applying.bench, failing.redriver
Check = Callable[[Any, Bench, Redriver], bool]


def resolves_conflicts_alone(module: Any, bench: Bench, redriver: Redriver) -> bool:
    found: set[int] = module.resolve_conflicts(bench.looking, [1, 2, 4, 5, 6])
    return found == {5} and module.resolve_conflicts(bench.looking, [5]) == set()


def drops_keyless_alone(module: Any, bench: Bench, redriver: Redriver) -> bool:
    return not module.drop_keyless(bench.looking, 4)


def knows_the_head(module: Any, bench: Bench, redriver: Redriver) -> bool:
    return module.read_head(bench.looking, "thing", "c") is None


def counts_those_behind(module: Any, bench: Bench, redriver: Redriver) -> bool:
    bench.look("UPDATE sluice.dead_letters SET state = 'done' WHERE id = 2")
    found = module.read_letters(bench.looking, Chosen(), after=0, limit=10)
    return [one.behind for one in found] == [0, None, 0, None, None, 1]


def goes_on_to_the_end(module: Any, bench: Bench, redriver: Redriver) -> bool:
    bench.apply(slice_of([thing_set(n, amount=n) for n in range(7, LETTERS + 10)], prev=6))
    allow(bench)
    done: bool = module.redrive_rest(redriver, "thing", "k").unparked
    return done


def refuses_what_waits(module: Any, bench: Bench, redriver: Redriver) -> bool:
    [letter] = read_whole_letters(bench.looking, Chosen(ids=(2,)), after=0, limit=1)
    try:
        module.require_droppable(bench.looking, letter)
    except OperationRefused:
        return True
    return False


def has_its_reason(module: Any, bench: Bench, redriver: Redriver) -> bool:
    [letters] = read_open_entities(bench.looking, Chosen(ids=(1,)), limit=1)
    bench.look(
        "DELETE FROM sluice.lane_progress; DELETE FROM sluice.parked_entities; DELETE FROM sluice.queues"
    )
    try:
        module.redrive_entity(bench.looking, redriver, letters, Decision("ann", "dlq redrive", "why"))
    except OperationRefused:
        return len(audits(bench)) == 1
    return False


_AUDITED = """    with session.transaction():
        insert_audits(session, decision, [(f"{letters.entity}/{letters.entity_key}", details)])
    return redrive_rest(redriver, letters.entity, letters.entity_key, tried=tried)"""
_LATE = """    done = redrive_rest(redriver, letters.entity, letters.entity_key)
    with session.transaction():
        insert_audits(session, decision, [(f"{letters.entity}/{letters.entity_key}", details)])
    return done"""
MUTANTS: dict[str, tuple[ModuleType, str, str, Check]] = {
    "resolves what is no conflict": (
        letters_module,
        "AND state = 'dead' AND outcome = 'conflict'",
        "AND state = 'dead'",
        resolves_conflicts_alone,
    ),
    "resolves again what is resolved": (
        letters_module,
        "AND state = 'dead' AND outcome = 'conflict'",
        "AND outcome = 'conflict'",
        resolves_conflicts_alone,
    ),
    "drops a letter with an entity as if it had none": (
        letters_module,
        " AND entity_key IS NULL",
        "",
        drops_keyless_alone,
    ),
    "takes a conflict for the head": (
        letters_module,
        "state IN ('dead', 'waiting') AND outcome <> 'conflict'\n    ORDER BY id LIMIT 1",
        "state IN ('dead', 'waiting')\n    ORDER BY id LIMIT 1",
        knows_the_head,
    ),
    "counts what is settled, too": (
        letters_module,
        " AND b.state = 'waiting'",
        "",
        counts_those_behind,
    ),
    "ends after one transaction": (
        redrive,
        "if once.blocked_by or once.unparked or not once.outcomes:",
        "if True:",
        goes_on_to_the_end,
    ),
    "drops what waits": (
        redrive,
        "        if head != letter.id:",
        "        if False:",
        refuses_what_waits,
    ),
    "gives the reason afterwards": (redrive, _AUDITED, _LATE, has_its_reason),
}


@pytest.mark.parametrize("is_mutant", [False, True], ids=["code", "mutant"])
@pytest.mark.parametrize("name", MUTANTS)
def test_each_mutant_is_told_from_the_code(
    bench: Bench, redriver: Redriver, name: str, is_mutant: bool
) -> None:
    module, old, new, holds = MUTANTS[name]
    fill(bench)
    copy = mutated(module, old, new)
    assert holds(copy if is_mutant else module, bench, redriver) != is_mutant
