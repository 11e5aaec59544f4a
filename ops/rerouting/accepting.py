"""`sluice accept TOPIC`: goes on from a situation in which the bridge stopped, as somebody's decision."""

from contextlib import closing
from typing import Annotated

import typer
from kafka import KafkaAdminClient

from db.projections import read_standing
from db.rerouting import TopicRouting, read_topic_routing, read_watermarks_of
from ops.addresses import read_addresses
from ops.connecting import connected
from ops.decisions import DryRun, NotDone, Reason, Yes, decide, require_meant
from ops.printing import AsJson, as_json
from ops.rerouting.acceptance import acceptance_lines, judge_acceptance
from ops.rerouting.changes import accept_topic
from tasks.lag import LogRange
from tasks.log_reading import BOOTSTRAP_TIMEOUT_MS, REQUEST_TIMEOUT_MS, LogReader
from tasks.settings import read_settings

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
            raise NotDone(f"no bridge has read topic {topic} so far: there is nothing to accept")
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
        fed = read_standing(session).fed
        if fed and not as_json_:
            names = ", ".join(f"generation {one.generation} of {one.projection}" for one in fed)
            typer.echo(f"can no longer be compared or come back, and is failed then: {names}")
        epoch = None
        if not dry_run:
            require_meant(f"Topic {topic} will be read from its log's beginning.", yes=yes)
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
    """A topic's id and what its partitions hold. Raises NotDone if Kafka has no such topic."""
    admin = KafkaAdminClient(
        bootstrap_servers=bootstrap_servers.split(","),
        bootstrap_timeout_ms=BOOTSTRAP_TIMEOUT_MS,
        request_timeout_ms=REQUEST_TIMEOUT_MS,
    )
    # The id first: of a topic that is re-created in between, the old one is accepted, and the bridge stops.
    with closing(admin):
        described = [one for one in admin.describe_topics([topic]) if one["partitions"]]
    if not described:
        raise NotDone(
            f"Kafka has no topic {topic}: create it first, or take it out of the handlers"
            " (and look whether SLUICE_KAFKA_BOOTSTRAP_SERVERS names the right cluster)"
        )
    with closing(LogReader(bootstrap_servers)) as reader:
        ranges = reader.read_ranges([topic])
    return str(described[0]["topic_id"]), {number: found for (_, number), found in ranges.items()}
