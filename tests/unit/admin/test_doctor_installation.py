"""The rules of `sluice doctor` about other processes that use the name of this installation."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from sluice.admin.doctor import rules_installation
from sluice.admin.doctor.facts import Facts, ForeignClaim
from sluice.admin.doctor.findings import Finding, Severity
from sluice.admin.doctor.rules import find_problems
from sluice.db.delivery.living_processes import Process
from sluice.db.records import ProcessKind
from sluice.runtime.installation import Installation
from tests.mutants import mutated
from tests.unit.admin.doctor_facts import HEALTHY, POSTGRES

INSTALLATION = Installation("shop", UUID("0a1b2c3d000000000000000000000000"))
GROUP = "shop-0a1b2c3d"
BRIDGE = Process(
    UUID(int=1), ProcessKind.BRIDGE, "one", 11, 1, 1, None, {"order": 2}, {"orders": "order"}, ()
)
OTHER = BRIDGE._replace(process=UUID(int=2), node="two", process_id=22)


def facts(*bridges: Process, **changed: Any) -> Facts:
    return replace(HEALTHY, postgres=replace(POSTGRES, installation=INSTALLATION, living=bridges), **changed)


CASES: Mapping[str, tuple[Facts, Severity, str]] = {
    "foreign claims": (
        facts(foreign_claims=[ForeignClaim("a", 0, 7), ForeignClaim("b", 0, 3)]),
        Severity.ERROR,
        "2 of its bridges wrote claims that are not in this database, the newest 3 seconds ago",
    ),
    "a member with another name": (
        facts(BRIDGE, members=[f"{GROUP}-bridge-0", "shop-0a1b2c3dx"]),
        Severity.ERROR,
        "has 1 foreign member: shop-0a1b2c3dx",
    ),
    "a member without a static name": (
        facts(BRIDGE, members=[None, f"{GROUP}-bridge-0"]),
        Severity.ERROR,
        "a member without a static name",
    ),
    "more members than bridges": (
        facts(BRIDGE, members=[f"{GROUP}-bridge-0", f"{GROUP}-bridge-1"]),
        Severity.WARNING,
        "has 2 members with names of this installation, but 1 bridge of",
    ),
    "different shards": (
        facts(BRIDGE, OTHER._replace(entities={"order": 4})),
        Severity.WARNING,
        "one (11), two (22) declare different shards: order 2; order 4",
    ),
    "different topics": (
        facts(BRIDGE, OTHER._replace(topics={})),
        Severity.WARNING,
        "different topics: none; orders order",
    ),
    "clocks": (
        facts(
            BRIDGE._replace(clock_offset=-3_600.0), OTHER._replace(kind=ProcessKind.BEAT, clock_offset=2.0)
        ),
        Severity.WARNING,
        "Clocks differ from the clock of Postgres: beat two (22) 2.0 s ahead, bridge one (11) 3600.0 s"
        " behind.",
    ),
    "the clock of this command": (
        replace(HEALTHY, postgres=replace(POSTGRES, installation=INSTALLATION, clock_offset=9.0)),
        Severity.WARNING,
        "Clocks differ from the clock of Postgres: this command 9.0 s ahead.",
    ),
}
HEALTHY_TOO: Mapping[str, Facts] = {
    "two bridges, and one has not joined the group yet": facts(BRIDGE, OTHER, members=[f"{GROUP}-bridge-1"]),
    "a bridge that joined again with a new name": facts(BRIDGE, members=[f"{GROUP}-bridge-0-1f2e3d4c"]),
    "the role may not describe the group": facts(BRIDGE, members=None),
    "clocks that differ by less than the limit": facts(
        BRIDGE._replace(clock_offset=-1.9), OTHER._replace(clock_offset=1.9)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_problem_has_exactly_one_finding(name: str) -> None:
    given, severity, words = CASES[name]
    [finding] = find_problems(given)
    assert finding.severity is severity
    assert words in finding.problem
    assert finding.advice.endswith(".")


def test_every_rule_has_a_case() -> None:
    source = Path(rules_installation.__file__).read_text()
    # Three rules have two cases each: foreign members, differing declarations and clocks.
    assert source.count("yield error(") + source.count("yield warning(") == len(CASES) - 3


@pytest.mark.parametrize("name", HEALTHY_TOO)
def test_a_healthy_installation_has_no_findings(name: str) -> None:
    assert find_problems(HEALTHY_TOO[name]) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("foreign claims", "if claims:", "if False:"),
        ("a member with another name", 'f"{group}-"', "group"),
        ("a member without a static name", "name is None or ", "name is not None and "),
        ("more members than bridges", "own > bridges", "own > bridges + 1"),
        ("different shards", "bridge.entities", "bridge.effects or {}"),
        ("different topics", "len(declared) > 1", "len(declared) > 2"),
        ("clocks", "abs(by) >= MAX", "abs(by) > MAX"),
        ("clocks", "abs(by) >= MAX", "by >= MAX"),
        ("the clock of this command", "postgres.clock_offset", "0.0"),
    ],
)
def test_each_mutant_is_caught(name: str, old: str, new: str) -> None:
    def words(found: list[Finding]) -> list[str]:
        return [finding.problem for finding in found]

    given = CASES[name][0]
    changed = mutated(rules_installation, old, new)
    assert words(list(changed.installation_problems(given))) != words(find_problems(given))
