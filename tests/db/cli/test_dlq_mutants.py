"""Mutants of the functions that change dead letters. For each mutant, one check fails."""

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


def resolves_only_conflicts(module: Any, bench: Bench, redriver: Redriver) -> bool:
    found: set[int] = module.resolve_conflicts(bench.looking, [1, 2, 4, 5, 6])
    return found == {5} and module.resolve_conflicts(bench.looking, [5]) == set()


def drops_only_keyless_letters(module: Any, bench: Bench, redriver: Redriver) -> bool:
    return not module.drop_keyless(bench.looking, 4)


def never_takes_a_conflict_as_first_letter(module: Any, bench: Bench, redriver: Redriver) -> bool:
    return module.read_head(bench.looking, "thing", "c") is None


def counts_waiting_letters_behind(module: Any, bench: Bench, redriver: Redriver) -> bool:
    bench.look("UPDATE sluice.dead_letters SET state = 'done' WHERE id = 2")
    found = module.read_letters(bench.looking, Chosen(), after=0, limit=10)
    return [one.behind for one in found] == [0, None, 0, None, None, 1]


def redrives_to_the_end(module: Any, bench: Bench, redriver: Redriver) -> bool:
    bench.apply(slice_of([thing_set(n, amount=n) for n in range(7, LETTERS + 10)], prev=6))
    allow(bench)
    done: bool = module.redrive_rest(redriver, "thing", "k").unparked
    return done


def refuses_a_waiting_letter(module: Any, bench: Bench, redriver: Redriver) -> bool:
    [letter] = read_whole_letters(bench.looking, Chosen(ids=(2,)), after=0, limit=1)
    try:
        module.require_droppable(bench.looking, letter)
    except OperationRefused:
        return True
    return False


def audits_before_the_change(module: Any, bench: Bench, redriver: Redriver) -> bool:
    [letters] = read_open_entities(bench.looking, Chosen(ids=(1,)), limit=1)
    bench.look(
        "DELETE FROM sluice.lane_offsets; DELETE FROM sluice.parked_entities; DELETE FROM sluice.queues"
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
    "resolves a letter that is not a conflict": (
        letters_module,
        "AND state = 'dead' AND outcome = 'conflict'",
        "AND state = 'dead'",
        resolves_only_conflicts,
    ),
    "resolves a resolved conflict again": (
        letters_module,
        "AND state = 'dead' AND outcome = 'conflict'",
        "AND outcome = 'conflict'",
        resolves_only_conflicts,
    ),
    "drops a letter with an entity": (
        letters_module,
        " AND entity_key IS NULL",
        "",
        drops_only_keyless_letters,
    ),
    "treats a conflict as the first letter of its entity": (
        letters_module,
        "state IN ('dead', 'waiting') AND outcome <> 'conflict'\n    ORDER BY id LIMIT 1",
        "state IN ('dead', 'waiting')\n    ORDER BY id LIMIT 1",
        never_takes_a_conflict_as_first_letter,
    ),
    "counts settled letters": (
        letters_module,
        " AND b.state = 'waiting'",
        "",
        counts_waiting_letters_behind,
    ),
    "redrives only the letters of one transaction": (
        redrive,
        "if once.blocked_by or once.unparked or not once.outcomes:",
        "if True:",
        redrives_to_the_end,
    ),
    "drops a waiting letter": (
        redrive,
        "        if head != letter.id:",
        "        if False:",
        refuses_a_waiting_letter,
    ),
    "audits after the change": (redrive, _AUDITED, _LATE, audits_before_the_change),
}


@pytest.mark.parametrize("is_mutant", [False, True], ids=["code", "mutant"])
@pytest.mark.parametrize("name", MUTANTS)
def test_each_check_passes_for_the_code_and_fails_for_its_mutant(
    bench: Bench, redriver: Redriver, name: str, is_mutant: bool
) -> None:
    module, old, new, holds = MUTANTS[name]
    fill(bench)
    copy = mutated(module, old, new)
    assert holds(copy if is_mutant else module, bench, redriver) != is_mutant
