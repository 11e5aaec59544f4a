"""`sluice accept` and `sluice reshard`: change where records of an entity type are read and queued."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from typing import Annotated

import typer

from sluice.admin.connection import connected
from sluice.admin.decisions import OperationRefused, decide
from sluice.admin.documents import as_json
from sluice.admin.pause import topics_paused
from sluice.admin.reroute.acceptance import acceptance_lines, judge_acceptance
from sluice.admin.reroute.reshard_plan import (
    Resharded,
    advice,
    is_settled,
    parked_moves,
    plan_reshard,
    require_other_shards,
    unsettled_text,
)
from sluice.admin.reroute.routing_changes import accept_topic, reshard_entity
from sluice.cli.confirmation import DryRun, Reason, Yes, require_confirmation
from sluice.cli.printing import AsJson
from sluice.db.admin.audit import Decision
from sluice.db.admin.rerouting import (
    TopicRouting,
    Unsettled,
    read_parked_of,
    read_topic_routing,
    read_topics_of,
    read_unsettled,
    read_watermarks_of,
)
from sluice.db.connection import Session
from sluice.db.delivery.progress import read_routing
from sluice.db.projections.generations import read_projection_snapshot
from sluice.kafka_io.config import (
    BOOTSTRAP_TIMEOUT_MS,
    REQUEST_TIMEOUT_MS,
    KafkaAccess,
    build_kafka_python_admin,
)
from sluice.kafka_io.log_range import LogRange
from sluice.kafka_io.log_reader import LogReader
from sluice.runtime.service_urls import read_addresses
from sluice.runtime.settings import read_settings

Topic = Annotated[str, typer.Argument(metavar="TOPIC")]


def accept(
    topic: Topic, reason: Reason, yes: Yes = False, dry_run: DryRun = False, as_json_: AsJson = False
) -> None:
    """Accept that a topic's log is not what was read so far, and read it from its beginning.

    For a topic that was re-created, or that lost records before they were
    applied: what is not in the log any more will never be applied.

    --dry-run says per partition what that would come to.
    """
    servers = read_addresses(read_settings()).kafka_bootstrap_servers
    with connected("sluice reroute") as session:
        routing = read_topic_routing(session, topic)
        if routing is None:
            raise OperationRefused(f"no bridge has read topic {topic} so far: there is nothing to accept")
        topic_id, logs = read_topic(servers, topic)
        found = judge_acceptance(
            topic,
            routing.entity,
            topic_ids=(routing.topic_id, topic_id),
            watermarks=read_watermarks_of(session, topic),
            logs=logs,
        )
        if not as_json_:
            typer.echo("\n".join(acceptance_lines(found)))
        synced = read_projection_snapshot(session).synced
        if synced and not as_json_:
            names = ", ".join(f"generation {one.generation} of {one.projection}" for one in synced)
            typer.echo(f"can no longer be compared or come back, and is failed then: {names}")
        epoch = None
        if not dry_run:
            require_confirmation(f"Topic {topic} will be read from its log's beginning.", yes=yes)
            wanted = TopicRouting(topic_id, routing.entity)
            decision = decide("accept", reason)
            found, epoch = accept_topic(session, topic, routing, wanted, logs, decision)
    if as_json_:
        typer.echo(as_json({"dry_run": dry_run, "epoch": epoch, **found.document()}))
    elif not dry_run:
        typer.echo(
            f"accepted: entity type {routing.entity} has epoch {epoch}. Start the bridge if it stopped."
        )


def read_topic(bootstrap_servers: str, topic: str) -> tuple[str, dict[int, LogRange]]:
    """A topic's id and what its partitions hold. Raises OperationRefused if Kafka has no such topic."""
    admin = build_kafka_python_admin(
        KafkaAccess(bootstrap_servers),
        bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    # The id first: of a topic that is re-created in between, the old one is accepted, and the bridge stops.
    with closing(admin):
        described = [one for one in admin.describe_topics([topic]) if one["partitions"]]
    if not described:
        raise OperationRefused(
            f"Kafka has no topic {topic}: create it first, or take it out of the handlers"
            " (and look whether SLUICE_KAFKA_BOOTSTRAP_SERVERS names the right cluster)"
        )
    with closing(LogReader(bootstrap_servers)) as reader:
        ranges = reader.read_ranges([topic])
    return str(described[0]["topic_id"]), {number: found for (_, number), found in ranges.items()}


MOST_SHARDS = 1_024  # each is a queue with a row, a Redis list and a worker
LOOK_SECONDS = 0.2
SAY_SECONDS = 2.0


def reshard(
    entity: Annotated[str, typer.Argument(metavar="ENTITY", help="An entity type.")],
    shards: Annotated[int, typer.Argument(metavar="N", min=1, max=MOST_SHARDS)],
    reason: Reason,
    force: Annotated[
        bool, typer.Option("--force", help="Do not wait: what is in hand is read again.")
    ] = False,
    patience: Annotated[
        float, typer.Option("--patience", metavar="SECONDS", help="How long to wait at most.")
    ] = 120.0,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Change how many queues an entity type has.

    Its topics are paused meanwhile, until what was read of them is applied and
    the outgoing events of its queues are sent; then they go on in the new queues.

    With --force it does not wait: records in hand are read again, the dedup
    catches them, but duplicates may be counted twice, and outgoing events of one
    key may overtake each other.
    """
    with connected("sluice reroute") as session:
        before = read_routing(session, entity)
        count = require_other_shards(entity, before[0] if before else None, shards)
        moved = len(parked_moves(read_parked_of(session, entity), entity, shards))
        done = plan_reshard(entity, count, shards, None, moved)
        unsettled = read_unsettled(session, entity)
        if not dry_run:
            require_confirmation(_question(done, unsettled, force=force), yes=yes)
            decision = decide("reshard", reason)
            topics = read_topics_of(session, entity)
            with topics_paused(session, topics, decision):
                done = _Resharding(session, entity, shards, decision, force=force).run(patience)
    if as_json_:
        typer.echo(as_json({"dry_run": dry_run, **asdict(done), "unsettled": unsettled._asdict()}))
    else:
        typer.echo("\n".join(_lines(done, unsettled, dry_run=dry_run)))


class _Resharding:
    """Waits until nothing is in hand, and re-routes."""

    def __init__(
        self,
        session: Session,
        entity: str,
        shards: int,
        decision: Decision,
        *,
        force: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._entity = entity
        self._shards = shards
        self._decision = decision
        self._force = force
        self._clock = clock
        self._said_at = float("-inf")

    def run(self, patience_seconds: float) -> Resharded:
        """Ends when it is done, or raises OperationRefused after so many seconds."""
        until = self._clock() + patience_seconds
        while True:
            found = self.run_once()
            if isinstance(found, Resharded):
                return found
            if self._clock() >= until:
                raise OperationRefused(
                    f"after {patience_seconds:.0f} s {unsettled_text(found)}: nothing was changed."
                    f" {advice(found)}. Or say --force"
                )
            self._say(found)
            time.sleep(LOOK_SECONDS)

    def run_once(self) -> Resharded | Unsettled:
        """Re-routes if nothing is in hand; else what is. The locks are taken only if it looks so."""
        found = read_unsettled(self._session, self._entity)
        if not self._force and not is_settled(found):
            return found
        return reshard_entity(self._session, self._entity, self._shards, self._decision, force=self._force)

    def _say(self, found: Unsettled) -> None:
        if self._clock() - self._said_at >= SAY_SECONDS:
            self._said_at = self._clock()
            typer.echo(f"waiting: {unsettled_text(found)}", err=True)


def _question(plan: Resharded, unsettled: Unsettled, *, force: bool) -> str:
    asked = f"Entity type {plan.entity} goes from {plan.shards_before} to {plan.shards} shards."
    if force and not is_settled(unsettled):
        asked += f" {unsettled_text(unsettled).capitalize()}: repeats may be counted twice."
    return asked


def _lines(done: Resharded, unsettled: Unsettled, *, dry_run: bool) -> list[str]:
    verb = "would have" if dry_run else "has"
    lines = [f"entity type {done.entity} {verb} {done.shards} shards, {done.shards_before} before"]
    if dry_run:
        lines.append(f"now: {unsettled_text(unsettled)}")
    if done.moved:
        lines.append(f"parked entities in another queue: {done.moved}")
    if done.new_queues:
        new = ",".join(done.new_queues)
        lines.append(f"workers without -Q take the new queues; if yours have -Q, start one with -Q {new}")
    if done.unused_queues:
        lines.append(f"no longer used, kept for their counters: {', '.join(done.unused_queues)}")
    lines.append(f"declare shards={done.shards} in code: bridge and doctor report the difference until then")
    return lines
