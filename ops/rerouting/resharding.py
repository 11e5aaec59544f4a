"""`sluice reshard ENTITY N`: another number of queues for an entity type."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated

import typer

from db.audit import Decision
from db.progress import read_routing
from db.rerouting import Unsettled, read_parked_of, read_topics_of, read_unsettled
from db.session import Session
from ops.connecting import connected
from ops.decisions import DryRun, NotDone, Reason, Yes, decide, require_meant
from ops.pausing.topics import topics_paused
from ops.printing import AsJson, as_json
from ops.rerouting.changes import reshard_entity
from ops.rerouting.settled import advice, is_settled, unsettled_text
from ops.rerouting.shards import Resharded, parked_moves, plan_reshard, require_other_shards

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
            require_meant(_question(done, unsettled, force=force), yes=yes)
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
        """Ends when it is done, or raises NotDone after so many seconds."""
        until = self._clock() + patience_seconds
        while True:
            found = self.run_once()
            if isinstance(found, Resharded):
                return found
            if self._clock() >= until:
                raise NotDone(
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
