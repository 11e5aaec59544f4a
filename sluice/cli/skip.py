"""`sluice skip`: the command, and the text that it prints before its question."""

from typing import Annotated

import typer

from sluice.admin.connection import connected, read_environment
from sluice.admin.decisions import decide
from sluice.admin.skip import SkipPlan, plan_skip
from sluice.admin.skip import skip as skip_records
from sluice.admin.trace import parse_place
from sluice.cli.confirmation import DryRun, Reason, Yes, require_confirmation
from sluice.cli.output import say, say_document
from sluice.cli.printing import AsJson
from sluice.runtime.terminal_text import counted


def skip(
    what: Annotated[str, typer.Argument(metavar="TOPIC:PARTITION:OFFSET", help="The record.")],
    reason: Reason,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Skip a record that the Kafka client cannot decode, so that the bridge continues behind it.

    You find such a record in the output of `sluice doctor` and in the log of
    the bridge. The client cannot read the records that follow it in the same
    batch, so the command skips these records, too. The command prints the
    offsets and asks for confirmation. Each skipped offset becomes a dead letter
    without key and value. The bridge continues within seconds; rebuild, verify
    and trace leave out the same offsets.

    A record that can be read is never skipped.
    """
    settings, registry, urls = read_environment()
    where = parse_place(registry, what, settings.share)
    with connected("sluice skip") as session:
        plan = plan_skip(
            session,
            urls.kafka_access,
            settings.share,
            where,
            with_kafka_python=settings.kafka_client == "kafka-python",
        )
        say(*skip_lines(plan), err=as_json_)
        if not dry_run:
            require_confirmation(f"{counted(plan.records.records, 'record')} will be skipped.", yes=yes)
            skip_records(session, plan, decide("skip", reason))
    if as_json_:
        topic, partition = plan.place
        document = {"topic": topic, "partition": partition, **plan.records._asdict(), "problem": plan.problem}
        say_document({"dry_run": dry_run, **document})
    elif not dry_run:
        say("skipped: the bridge continues within seconds")


def skip_lines(plan: SkipPlan) -> list[str]:
    """Returns the offsets that would be skipped, and why they cannot be read."""
    found = plan.records
    return [
        f"{plan.place[0]}[{plan.place[1]}]: offsets {found.first_offset} to {found.last_offset},"
        f" {counted(found.records, 'record')}, compression: {found.codec}",
        f"cannot be read: {plan.problem}",
    ]
