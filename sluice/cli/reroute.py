"""`sluice accept` and `sluice reshard`: change where records of an entity type are read and queued."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

import typer

from sluice.admin.accept import (
    Acceptance,
    PartitionChange,
    accept_partitions,
    accept_topic,
    plan_accept,
)
from sluice.admin.connection import connected
from sluice.admin.decisions import OperationRefused, decide
from sluice.admin.reshard import Resharded, is_settled, read_reshard_plan, unsettled_text
from sluice.admin.reshard import reshard as reshard_when_settled
from sluice.cli.confirmation import DryRun, Reason, Yes, require_confirmation
from sluice.cli.output import say, say_document
from sluice.cli.printing import AsJson
from sluice.db.admin.rerouting import Unsettled
from sluice.runtime.service_urls import read_addresses
from sluice.runtime.settings import read_settings
from sluice.runtime.terminal_text import counted

Topic = Annotated[str, typer.Argument(metavar="TOPIC", help="A topic.")]


def accept(
    topic: Topic,
    reason: Reason,
    force: Annotated[
        bool, typer.Option("--force", help="Read the topic again even if there is nothing to accept.")
    ] = False,
    starts: Annotated[
        list[str] | None,
        typer.Option("--from", metavar="PARTITION:OFFSET", help="First new record; for dedup=position."),
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Accept that a topic was re-created, lost records, or has more partitions than before.

    Use this command for a topic that was re-created, or that lost records
    before they were applied: its log is read from the beginning. Records that
    are no longer in the log will never be applied. If partitions were added in
    an installation with SLUICE_PARTITION_SHARE, only the new partitions are read
    from their beginning. For any other topic the command changes nothing without
    --force.

    A topic with dedup="position" that was not re-created continues where reading
    stopped, because only its offsets show what was applied. If its log lost
    records that were applied, pass --from PARTITION:OFFSET: the offset of the
    first record that was written after the loss.

    --dry-run prints the effect per partition.
    """
    settings = read_settings()
    access = read_addresses(settings).kafka_access
    with connected("sluice reroute") as session:
        given = parse_starts(starts or ())
        plan = plan_accept(session, access, settings.share, topic, given)
        found = plan.acceptance
        if not as_json_:
            say(*acceptance_lines(found))
            say(*(plan.reasons or (NOTHING_TO_ACCEPT,)))
        if plan.failing and not as_json_:
            names = ", ".join(f"generation {one.generation} of {one.projection}" for one in plan.failing)
            say(f"these generations fail, because they can no longer be compared or made live: {names}")
        epoch = None
        changes = not dry_run and (force or bool(plan.reasons))
        if changes and plan.adds_only:
            require_confirmation(f"The new partitions of topic {topic} will be read.", yes=yes)
            accept_partitions(session, topic, plan.before, found, decide("accept partitions", reason))
        elif changes:
            where = "where reading stopped" if found.continues else "its log's beginning"
            require_confirmation(f"Topic {topic} will be read from {where}.", yes=yes)
            decision = decide("accept", reason)
            found, epoch = accept_topic(session, topic, plan.before, plan.wanted, plan.logs, decision, given)
    if as_json_:
        document = {"dry_run": dry_run, "accepted": changes, "epoch": epoch, "reasons": plan.reasons}
        say_document({**document, **found.document()})
    elif not changes and not dry_run:
        say("nothing was changed: pass --force to read the topic again anyway")
    elif epoch is None and changes:
        say("accepted: the new partitions are read. Start the bridge if it stopped.")
    elif changes:
        say(f"accepted: entity type {found.entity} has epoch {epoch}. Start the bridge if it stopped.")


NOTHING_TO_ACCEPT = "there is nothing to accept: bridges can continue to read the log where they are"


def parse_starts(texts: Iterable[str]) -> dict[int, int]:
    """Returns partition → offset, from texts of the form PARTITION:OFFSET. Raises OperationRefused."""
    found: dict[int, int] = {}
    for text in texts:
        partition, colon, offset = text.partition(":")
        if not (colon and partition.isdecimal() and offset.isdecimal()) or int(partition) in found:
            raise OperationRefused(
                f"--from {text!r:.80} is refused: pass PARTITION:OFFSET, one time per partition"
            )
        found[int(partition)] = int(offset)
    return found


def acceptance_lines(found: Acceptance) -> list[str]:
    """Returns, for people, a line per partition, then the consequences."""
    lines = [f"topic {found.topic} (entity type {found.entity})"]
    if found.recreated:
        lines.append(f"id: {found.topic_id_before} → {found.topic_id}: the topic was re-created")
    lines += [_partition_line(one) for one in found.partitions]
    if found.recreated:
        lines.append("records of the old topic above the watermarks that were not applied are lost")
        lines.append("an event that the new topic contains again is a duplicate, if it has an id")
    if any(one.again for one in found.partitions):
        lines.append(
            "records that are read again change nothing as long as their identities are kept"
            " (SLUICE_KEEP_IDENTITIES_DAYS); duplicates among them are counted again"
        )
    return lines


def _partition_line(one: PartitionChange) -> str:
    if one.after is None:
        return f"partition {one.partition}: gone, its watermark {one.before} is removed"
    if one.before is None:
        return f"partition {one.partition}: new, read from {one.after}"
    said = [f"partition {one.partition}: watermark {one.before} → {one.after}"]
    if one.lost:
        said.append(f"up to {counted(one.lost, 'record')} will never be applied")
    if one.again:
        said.append(f"up to {counted(one.again, 'record is', 'records are')} read again")
    return ", ".join(said)


MOST_SHARDS = 1_024  # each is a queue with a row, a Redis list and a worker


def reshard(
    entity: Annotated[str, typer.Argument(metavar="ENTITY", help="An entity type.")],
    shards: Annotated[int, typer.Argument(metavar="N", min=1, max=MOST_SHARDS, help="New number of queues.")],
    reason: Reason,
    force: Annotated[
        bool, typer.Option("--force", help="Do not wait: records in flight are read again.")
    ] = False,
    patience: Annotated[float, typer.Option("--patience", metavar="SECONDS", help="Maximum wait.")] = 120.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Change the number of queues of an entity type.

    Pauses the topics until all records that were read are applied and the
    outgoing events of the queues are sent. Then the topics continue in the new
    queues.

    With --force the command does not wait: records in flight are read again. It
    is refused if a topic of the entity type has dedup="position".
    Deduplication keeps the rows right, but duplicates may be counted twice, and
    outgoing events of one key may overtake each other.
    """
    with connected("sluice reroute") as session:
        done, unsettled = read_reshard_plan(session, entity, shards)
        if not dry_run:
            require_confirmation(_question(done, unsettled, force=force), yes=yes)
            done = reshard_when_settled(
                session,
                entity,
                shards,
                decide("reshard", reason),
                force=force,
                patience_seconds=patience,
                waiting=lambda reason: say(f"waiting: {reason}", err=True),
                warn=lambda sentence: say(f"sluice: {sentence}", err=True),
            )
    if as_json_:
        say_document({"dry_run": dry_run, **asdict(done), "unsettled": unsettled._asdict()})
    else:
        say(*_reshard_lines(done, unsettled, dry_run=dry_run))


def _question(plan: Resharded, unsettled: Unsettled, *, force: bool) -> str:
    shards = counted(plan.shards, "shard")
    asked = f"Entity type {plan.entity} will have {shards} instead of {plan.shards_before}."
    if force and not is_settled(unsettled):
        asked += f" {unsettled_text(unsettled).capitalize()}: repeats may be counted twice."
    return asked


def _reshard_lines(done: Resharded, unsettled: Unsettled, *, dry_run: bool) -> list[str]:
    verb = "would have" if dry_run else "has"
    lines = [f"entity type {done.entity} {verb} {counted(done.shards, 'shard')}, {done.shards_before} before"]
    if dry_run:
        lines.append(f"now: {unsettled_text(unsettled)}")
    if done.moved:
        lines.append(f"parked entities that moved to another queue: {done.moved}")
    if done.new_queues:
        new = ",".join(done.new_queues)
        lines.append(
            "workers without --queues serve the new queues; if all of your workers have --queues, start"
            f" a worker with --queues {new}"
        )
    if done.unused_queues:
        lines.append(f"no longer used, kept for their counters: {', '.join(done.unused_queues)}")
    lines.append(f"declare shards={done.shards} in code: bridge and doctor report the difference until then")
    return lines
