"""The rules of `sluice doctor` about processes, late work and the Postgres server."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from sluice.admin.doctor import rules_late, rules_processes, rules_server
from sluice.admin.doctor.facts import Facts, LeavingFacts, RedisFacts, SharingFacts, WorkingFacts
from sluice.admin.doctor.findings import Severity
from sluice.admin.doctor.rules import find_problems
from sluice.admin.doctor.rules_processes import BEAT_SILENCE_SECONDS
from sluice.admin.doctor.rules_server import MANY_TRANSACTIONS
from sluice.admin.status import Reading, judge_status
from sluice.db.admin.retrying import RetryingEvent
from sluice.db.admin.server_facts import Blocker, Horizon, Replication
from sluice.db.admin.waiting_facts import DueCalls, EventDeath, HoldingCall
from sluice.db.records import ProcessKind, RetryKind
from tests.unit.admin.doctor_facts import HEALTHY, LIVE, POSTGRES, QUEUES
from tests.unit.admin.working_facts import (
    ALL,
    BEAT,
    BRIDGE,
    BUILDING,
    EFFECTS,
    REBUILD,
    RELAY,
    SESSION,
    WORKING,
    WORKING_POSTGRES,
    but,
    failing,
    late,
    leaving,
    process,
    server,
    stuck,
    without,
)

ERROR, WARNING = Severity.ERROR, Severity.WARNING


CASES: Mapping[str, tuple[Facts, Severity, str, str]] = {
    "no bridge": (without(BRIDGE), WARNING, "No bridge runs: no topic is read.", "`sluice bridge`"),
    "a topic that no bridge declares": (
        but(living=[*ALL[1:], process(ProcessKind.BRIDGE, topics=["users"])]),
        WARNING,
        "No running bridge declares orders, so no record of these topics is read.",
        "SLUICE_HANDLERS",
    ),
    "no beat": (
        without(BEAT, working=WorkingFacts(beat_silence=None)),
        WARNING,
        "No beat schedules: events whose sending failed are not sent again",
        "Start one: `sluice beat`.",
    ),
    "a beat without the leader lock": (
        server(beat_silence=None), WARNING, "No beat schedules", "Read the log of the beat"
    ),
    "a frozen beat": (
        server(beat_silence=BEAT_SILENCE_SECONDS + 1), WARNING, "has not reported for 16 s", "restart it"
    ),
    "no relay": (
        without(RELAY, leaving=LeavingFacts(outgoing=[late(90.0)])),
        WARNING,
        "No worker serves the queues relay and maintenance: no outgoing event is sent and no call is"
        " dispatched; 3 outgoing events wait, the oldest for 90 s.",
        "Start one: `sluice relay`.",
    ),
    "no maintenance": (
        but(living=[*(one for one in ALL if one != RELAY), process(ProcessKind.WORKER, "relay")]),
        WARNING,
        "No worker serves the queue maintenance: no retry",
        "Start one: `sluice relay`.",
    ),
    "no effects worker": (
        without(EFFECTS, leaving=LeavingFacts(due_calls=DueCalls(2, 75.0))),
        WARNING,
        "No worker serves the queue effects: no call is made; 2 calls are due, the oldest for 75 s.",
        "Start one: `sluice effects-worker`.",
    ),
    "a building generation without a rebuild worker": (
        without(REBUILD, generations=[LIVE, BUILDING]),
        WARNING,
        "Generation 2 of revenue is building, and no worker serves the queue rebuild, so nothing fills"
        " the generation.",
        "Start one: `sluice rebuild-worker`.",
    ),
    "a lagging generation without a rebuild worker": (
        without(REBUILD, generations=[LIVE, replace(BUILDING, state="retired", lags=True)]),
        WARNING,
        "Generation 2 of revenue is retired and lags, and no worker serves",
        "Start one: `sluice rebuild-worker`.",
    ),
    "a lagging generation that no worker fills": (
        replace(but(generations=[LIVE, replace(BUILDING, lags=True)]), still={("revenue", 2): 15.3}),
        WARNING,
        "Generation 2 of revenue lags, and nothing was written to it in 15 s.",
        "only code of revision 2 fills it",
    ),
    "old outgoing events": (
        leaving(outgoing=[late(61.0), late(5.0, "other")]),
        WARNING,
        "Outgoing events wait for up to 61 s: 6, the oldest for topic out.",
        "workers on `relay`",
    ),
    "old due calls": (
        leaving(due_calls=DueCalls(2, 120.0)), WARNING, "Calls are due for up to 2 min: 2.", "`effects`"
    ),
    "calls behind a failed call": (
        leaving(
            holding_calls=[
                HoldingCall("k-1", "notify", "order", "o-1", "failed", 4),
                HoldingCall("k-2", "notify", "order", "o-2", "uncertain", 1),
            ]
        ),
        WARNING,
        "did not succeed: 5 behind k-1 (and 1 other), which is failed; effect notify of order/o-1.",
        '`sluice effects retry k-1 --reason "…"`',
    ),
    "an event that kills its worker": (
        server(deaths=[EventDeath("order.1", "orders", 0, 12, 2, "signal 11", 4.0)]),
        WARNING,
        "Event orders:0:12 ended its worker 2 times: signal 11; the last time 4 s ago.",
        "Correct the handler of the event",
    ),
    "read-only Postgres": (
        but(server=replace(POSTGRES.server, read_only="it is a standby")),
        ERROR,
        "Postgres can only be read: it is a standby.",
        "primary",
    ),
    "a full disk": (
        but(narrowed=[failing("DiskFull: could not extend file\nHINT: free some")]),
        ERROR,
        "A disk of Postgres is full: DiskFull: could not extend file.",
        "Free space",
    ),
    "no synchronous standby": (
        server(replication=Replication("ANY 2 (a, b)", 1, 3, 4.0)),
        ERROR,
        "not connected: synchronous_standby_names (ANY 2 (a, b)) requires 2, connected: 1; 3 wait now,"
        " the oldest for 4 s.",
        "ALTER SYSTEM SET synchronous_standby_names = ''",
    ),
    "a slow synchronous standby": (
        server(replication=Replication("a", 1, 3, 64.0)), WARNING, "standby; 3 wait", "pg_stat_replication"
    ),
    "an old transaction": (
        server(horizons=[SESSION]),
        WARNING,
        "deleted in the last 15 min, because of pid 77, application psql, user ada, idle in transaction for"
        " 15 min, query SELECT 1.",
        "`SELECT pg_terminate_backend(77)`",
    ),
    "a prepared transaction": (
        server(horizons=[Horizon("prepared", "it's", None, "ada", None, None, 700.0, 5)]),
        WARNING,
        "because of the prepared transaction it's of ada.",
        "`ROLLBACK PREPARED 'it''s'`",
    ),
    "a replication slot": (
        server(horizons=[Horizon("slot", "cdc", None, None, "inactive", None, None, MANY_TRANSACTIONS)]),
        WARNING,
        "in the last 1000000 transactions, because of the replication slot cdc, which is inactive.",
        "pg_drop_replication_slot('cdc')",
    ),
    "a query on a standby": (
        server(horizons=[Horizon("standby", "b", None, "r", "streaming", None, None, MANY_TRANSACTIONS)]),
        WARNING,
        "because of the standby b, on which a long query runs.",
        "hot_standby_feedback",
    ),
    "a queue without progress": (
        stuck(),
        WARNING,
        "Queue order.1 has 4 messages, and no batch of it was committed in 15 s.",
        "`sluice workers`",
    ),
    "a queue that waits for a lock": (
        stuck(Blocker(77, "psql", "ada", "idle in transaction", "SELECT 1", 300.0)),
        WARNING,
        "in 15 s; workers wait for a lock of another session: pid 77, application psql",
        "`SELECT pg_terminate_backend(77)`",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_problem_has_one_finding_which_status_also_reports(name: str) -> None:
    facts, severity, words, cure = CASES[name]
    [finding] = find_problems(facts)
    assert finding.severity is severity
    assert words in finding.problem
    assert finding.problem.endswith(".")
    assert cure in finding.advice
    assert finding.advice.endswith(".")
    status = judge_status(Reading({}, {}, situation=facts), now=0.0)
    assert list(status.problems) == ([] if facts.stuck or facts.still else [finding.problem])


def test_every_rule_has_a_case() -> None:
    modules = (rules_late, rules_processes, rules_server)
    source = "".join(Path(str(module.__file__)).read_text() for module in modules)
    source = source.replace("return warning(", "yield warning(")
    second_cases = 3  # no beat, no relay queue and an unfilled generation have two cases each
    stuck_cases = 2  # the rule about a stuck queue is in another module
    horizon_cases = 3  # the rule about old transactions has one case for each of four kinds
    elsewhere = 1  # the case of the checkpoints is in test_doctor_rules.py
    extra = second_cases + stuck_cases + horizon_cases - elsewhere
    assert source.count("yield error(") + source.count("yield warning(") == len(CASES) - extra


WORKING_TOO: Mapping[str, Facts] = {
    "all facts are healthy": WORKING,
    "no effects are declared, and no effects worker runs": replace(
        without(EFFECTS), declared=replace(HEALTHY.declared, effects=frozenset())
    ),
    "a paused generation": without(REBUILD, generations=[LIVE, replace(BUILDING, paused=True, lags=True)]),
    "a generation without lag": without(REBUILD, generations=[LIVE, replace(BUILDING, state="ready")]),
    "outgoing events that wait behind a refused event": leaving(outgoing=[late(900.0, free=0)]),
    "young outgoing events and calls": leaving(outgoing=[late(59.0)], due_calls=DueCalls(1, 59.0)),
    "a longer --patience": replace(leaving(outgoing=[late(90.0)]), patience_seconds=91.0),
    "a beat that reported just in time": server(beat_silence=BEAT_SILENCE_SECONDS),
    "a young transaction": server(horizons=[SESSION._replace(seconds=599.0)]),
    "an active slot": server(horizons=[Horizon("slot", "a", None, None, "active", None, None, 999_999)]),
    "a connected synchronous standby": server(replication=Replication("FIRST 1 (a)", 1, 2, 0.5)),
    "commits that do not wait for a standby": replace(
        server(replication=Replication("a", 0, 0, 0.0)),
        postgres=replace(
            WORKING_POSTGRES,
            server=replace(POSTGRES.server, synchronous_commit="local"),
            working=WorkingFacts(replication=Replication("a", 0, 0, 0.0)),
        ),
    ),
    "a worker that does not answer during a long batch": replace(
        but(living=[*ALL, process(ProcessKind.WORKER, *QUEUES)]),
        redis=RedisFacts("7.2.4", "noeviction", None),
    ),
    "a temporary failure": but(narrowed=[failing("DeadlockDetected: deadlock detected")]),
}  # fmt: skip


@pytest.mark.parametrize("name", WORKING_TOO)
def test_a_working_installation_has_no_findings(name: str) -> None:
    assert find_problems(WORKING_TOO[name]) == []


SILENT: Mapping[str, tuple[Facts, str]] = {
    "paused calls": (leaving(effects_paused="why", due_calls=DueCalls(1, 900.0)), "are due"),
    "a topic that does not exist": (
        replace(
            leaving(outgoing=[late(900.0)]), kafka=replace(WORKING.kafka, missing_outgoing={"out"})  # type: ignore[type-var]
        ),
        "wait for up to",
    ),
    "a topic that cannot exist": (leaving(outgoing=[late(900.0, "a b")]), "wait for up to"),
    "no beat": (server(beat_silence=None), "wait for up to"),
    "a copied database": (but(living=[], refusal="this database is a copy"), "No worker serves"),
    "a queue that no worker holds": (
        replace(
            stuck(), redis=replace(HEALTHY.redis, consumed=frozenset({QUEUES[0]}))  # type: ignore[type-var]
        ),
        "committed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SILENT)
def test_a_problem_with_its_own_finding_is_not_reported_twice(name: str) -> None:
    facts, words = SILENT[name]
    found = find_problems(facts)
    assert found
    assert not [one for one in found if words in one.problem]


def test_a_full_disk_is_found_in_the_error_of_a_retried_event() -> None:
    event = RetryingEvent(1, "order", "o-1", RetryKind.UNAVAILABLE, 3, 9.0, "DiskFull: no space", [])
    found = find_problems(but(retrying=[event], sharing=SharingFacts(1, frozenset(QUEUES))))
    assert [one.severity for one in found] == [ERROR, WARNING]
    assert "DiskFull: no space" in found[0].problem
