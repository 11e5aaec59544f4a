"""`sluice doctor`: the command."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from sluice.admin.connection import read_environment
from sluice.admin.doctor.facts import DEFAULT_PATIENCE_SECONDS, Facts, TopicFacts
from sluice.admin.doctor.facts_reading import Looks, read_facts
from sluice.admin.doctor.findings import Finding, Severity
from sluice.admin.doctor.rules import find_problems
from sluice.cli.output import say, say_document
from sluice.cli.printing import AsJson, finding_document, finding_lines
from sluice.db.admin.doctor_facts import EventsWithoutId
from sluice.runtime.terminal_text import counted

UNKNOWN = "?"


Patience = Annotated[
    float,
    typer.Option(
        min=0.1,
        metavar="SECONDS",
        help="Report work that waits for longer than this, and transactions that are open for 10 times"
        " as long.",
    ),
]


def doctor(patience: Patience = DEFAULT_PATIENCE_SECONDS, as_json: AsJson = False) -> None:
    """Report what is wrong with this installation, and how to repair it. Changes nothing.

    Checks connections, migrations, your tables, queues and topics; unsafe
    settings; queues that are halted or have no worker; partitions that no
    bridge reads; outgoing events and calls that wait; processes that do not
    run; and locks, transactions and settings that slow down Postgres. If a
    queue has messages, the check waits up to 15 seconds for a committed batch.
    If the command cannot read something that it checks, it reports that, too.

    An error stops this deployment or makes it unsafe, and this deployment can
    repair it. A warning is a possible mistake, or work that waits. A note is
    a problem of a topic, table or projection that the handlers of this
    deployment do not declare: only another deployment can repair the problem.

    Exit code 1 if there is an error; warnings and notes alone give 0.
    """
    settings, registry, urls = read_environment()
    facts = read_facts(settings, urls, registry, Looks(patience))
    findings = find_problems(facts)
    if as_json:
        say_document(as_document(facts, findings))
    else:
        say(*as_lines(facts, findings))
    if any(finding.severity is Severity.ERROR for finding in findings):
        raise typer.Exit(1)


def as_document(facts: Facts, findings: list[Finding]) -> dict[str, Any]:
    """Returns, for --json, the findings and further information."""
    installation = facts.postgres.installation if facts.postgres else None
    topics = facts.kafka.topics if facts.kafka else {}
    return {
        "installation": installation.group if installation else None,
        "partition_share": str(facts.declared.share),
        "findings": [finding_document(finding) for finding in findings],
        "postgres": asdict(facts.postgres.server) if facts.postgres else None,
        "redis": {"version": facts.redis.version} if facts.redis else None,
        "topics": {name: asdict(topic) for name, topic in topics.items()},
        "events_without_id": {one.topic: one.events for one in _without_id(facts)},
    }


def as_lines(facts: Facts, findings: list[Finding]) -> list[str]:
    """Returns the findings and further information as lines for people."""
    lines = [line for finding in findings for line in finding_lines(finding)]
    for name, topic in sorted(facts.kafka.topics.items() if facts.kafka else ()):
        insync = UNKNOWN if topic.min_insync_replicas is None else topic.min_insync_replicas
        lines.append(
            f"topic {name}: partitions {_partitions(facts, topic)}, replicas {topic.replicas},"
            f" min.insync.replicas {insync}, cleanup.policy {topic.cleanup_policy or UNKNOWN}"
        )
    for one in _without_id(facts):
        known = _KNOWN[facts.declared.dedup.get(one.topic, "id")]
        lines.append(
            f"topic {one.topic}: {counted(one.events, 'event')} without id so far; Sluice identifies the"
            f" events of this topic by their {known}"
        )
    is_green = all(finding.severity is Severity.NOTE for finding in findings)
    return [*lines, "no problem found"] if is_green else lines


_KNOWN = {"id": "ids", "position": "positions", "natural": "versions"}


def _partitions(facts: Facts, topic: TopicFacts) -> str:
    share = facts.declared.share
    own = len(share.numbers(topic.partitions))
    return f"{topic.partitions}" if share.is_whole else f"{own} of {topic.partitions} (share {share})"


def _without_id(facts: Facts) -> Sequence[EventsWithoutId]:
    return facts.postgres.without_id if facts.postgres else ()
