"""If only another deployment can solve a problem, `sluice doctor` reports a note instead of an error."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from sqlalchemy import Column, MetaData, String

from sluice.admin.doctor.facts import Facts, KafkaFacts
from sluice.admin.doctor.findings import Severity
from sluice.admin.doctor.rules import find_problems
from sluice.cli.doctor import as_lines
from sluice.db.admin.stored_tables import StoredTable
from sluice.db.delivery.undeclared import Undeclared
from sluice.db.delivery.unread_partitions import UnreadKind
from sluice.db.records import Declaration
from sluice.db.tables import projection_table
from tests.unit.admin.doctor_facts import HEALTHY, QUEUES, REGISTERED, TOPIC, postgres, registered, unread

USERS = {"users": replace(TOPIC, topic_id="id-9", without_leader=[1])}
OTHERS = replace(REGISTERED, shards={"order": 2, "user": 2}, queues=dict.fromkeys(QUEUES) | {"user.0": "why"})
NOT_OURS: Mapping[str, tuple[Facts, list[str]]] = {
    "queues of another deployment's entity type": (
        replace(postgres(registered=OTHERS), redis=None),
        ["Queues without a row: user.1.", "Queue user.0 is halted: why"],
    ),
    "a halted topic and effect": (
        postgres(
            undeclared=[
                Undeclared(Declaration.TOPIC, "users", 700),
                Undeclared(Declaration.EFFECT, "fax", 700),
            ]
        ),
        ["Topic users is halted: no", "Effect fax is halted: no"],
    ),
    "a topic that is not read": (
        postgres(unread=[replace(unread(UnreadKind.STOPPED, "it was re-created."), topic="users")]),
        ["users[2] is not read"],
    ),
    "a topic in Kafka": (
        replace(
            registered(topic_ids={"orders": "id-1", "users": "id-2"}, partitions={"users": 9}),
            kafka=KafkaFacts({"orders": TOPIC, **USERS}, {"more": "TopicAuthorizationFailedError"}),
        ),
        [
            "Kafka does not describe topic more",
            "Partitions without a leader: users[1]",
            "Topic users is not the topic that was read",
            "Topic users has 4 partitions",
        ],
    ),
    "columns of a projection that no handler here fills": (
        replace(
            HEALTHY,
            declared=replace(HEALTHY.declared, columns={"orders": {"order_id", "note"}}, unfilled={"orders"}),
        ),
        ["Table orders lacks note."],
    ),
}


def test_problems_of_a_projection_that_no_handler_here_fills_are_notes() -> None:
    table = projection_table("sums", MetaData(), Column("id", String, primary_key=True))
    stored = StoredTable("sums_g1", is_logged=False, generation=1)
    declared = replace(HEALTHY.declared, tables=[table])
    facts = replace(postgres(tables={"sums": stored}), declared=declared)
    assert {one.severity for one in find_problems(facts)} == {Severity.ERROR}
    facts = replace(facts, declared=replace(declared, unfilled={"sums"}))
    assert {one.severity for one in find_problems(facts)} == {Severity.NOTE}


@pytest.mark.parametrize("name", NOT_OURS)
def test_a_problem_that_only_another_deployment_can_solve_is_a_note(name: str) -> None:
    facts, problems = NOT_OURS[name]
    findings = find_problems(facts)
    assert {one.severity for one in findings} == {Severity.NOTE}
    assert len(findings) == len(problems)
    for finding, words in zip(findings, problems, strict=True):
        assert words in finding.problem
        assert finding.advice.endswith("the handlers of this command do not.")
    assert as_lines(facts, findings)[-1] == "no problem found"
