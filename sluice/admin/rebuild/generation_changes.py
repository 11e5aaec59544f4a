"""What `sluice rebuild` changes, each under the locks that make it one step for live traffic."""

import msgspec

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.admin.rebuild.checkpoints import take_late_letters
from sluice.admin.rebuild.generation_locks import (
    COPY_PATIENCE,
    Held,
    lock_all,
    patiently,
    require_generation,
    require_lockstep,
)
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.connection import Session
from sluice.db.projections import generation_lag, generation_tables, generations
from sluice.db.projections.checkpoints import Checkpoint, place_lanes
from sluice.db.projections.generations import Generation
from sluice.db.projections.rebuilt_partitions import end_rebuild, try_rebuild
from sluice.db.tables import generation_name
from sluice.runtime.fault_points import faults
from sluice.tasks.fold.registry import Registry

# A reader in a long query has the view: nobody is to wait for him with all queues locked.
VIEW_PATIENCE = "SET LOCAL lock_timeout = '300ms'"


def begin(
    session: Session,
    registry: Registry,
    projection: str,
    *,
    rate: int | None,
    compacted_topics: list[str],
    decision: Decision,
    checkpoint: Checkpoint | None = None,
) -> int:
    """A new generation is building; its number. What an earlier attempt left over is cleared away.

    `checkpoint`: it begins as a copy of that one.
    """
    # Else one would clear away, as left over, what the other has just made.
    if not try_rebuild(session, f"start {projection}", 0):
        raise Held(f"somebody else is starting a generation of {projection}")
    try:
        return _begin(session, registry, projection, rate, compacted_topics, decision, checkpoint)
    finally:
        end_rebuild(session, f"start {projection}", 0)


def _begin(
    session: Session,
    registry: Registry,
    projection: str,
    rate: int | None,
    compacted_topics: list[str],
    decision: Decision,
    checkpoint: Checkpoint | None,
) -> int:
    revision = registry.revisions[projection]
    with patiently(projection), session.transaction():
        live = generations.lock_projection(session, projection)
        if live is None:
            raise OperationRefused(f"projection {projection} has no row: run `sluice init`")
        for table in generation_tables.read_left_over(session, projection):
            generation_tables.drop_table(session, table)
        number = generations.number_generation(session, projection)
        table = generation_name(projection, number)
        generation_tables.make_like(session, table, generation_name(projection, live))
        if checkpoint is not None:
            session.command(COPY_PATIENCE)
            generation_tables.fill_from(session, table, checkpoint.table)
            generation_tables.copy_tombstones(session, checkpoint.table, table)
    with patiently(projection), session.transaction():
        lock_all(session)
        generation_lag.give_lanes(session)
        generations.begin_generation(
            session,
            projection,
            number,
            revision=revision,
            rate=rate,
            compacted_topics=msgspec.json.encode(compacted_topics).decode(),
        )
        if checkpoint is not None:
            place_lanes(session, projection, number, checkpoint.checkpoint)
            take_late_letters(session, registry, projection, number, checkpoint)
        details = {
            "generation": number,
            "revision": revision,
            "rate": rate,
            "from": checkpoint.checkpoint if checkpoint else None,
        }
        insert_audits(session, decision, [(projection, as_json(details))])
    return number


def set_pace(
    session: Session, generation: Generation, *, paused: bool, rate: int | None, decision: Decision
) -> None:
    """Whether its rebuild goes on, and how fast. May run twice."""
    with session.transaction():
        generations.set_pace(session, generation.projection, generation.generation, paused=paused, rate=rate)
        details = {"generation": generation.generation, "paused": paused, "rate": rate}
        insert_audits(session, decision, [(generation.projection, as_json(details))])


def drop(session: Session, generation: Generation, decision: Decision) -> None:
    """The generation, its rows and its reports are gone. Raises OperationRefused for the live one."""
    with patiently(generation.projection), session.transaction():
        lock_all(session)
        if generations.lock_projection(session, generation.projection) == generation.generation:
            raise OperationRefused(f"generation {generation.generation} is live: readers see it")
        generations.delete_generation(session, generation.projection, generation.generation)
        generation_tables.drop_table(session, generation.table)
        details = {"generation": generation.generation, "state": generation.state}
        insert_audits(session, decision, [(generation.projection, as_json(details))])


def swap(session: Session, registry: Registry, generation: Generation, decision: Decision) -> int:
    """Readers see this generation from now on; the one they saw before, which is kept in sync from now on.

    One short transaction under the locks of all queues. Raises Behind or Held: nothing has changed then. May
    run again after being killed anywhere.
    """
    projection = generation.projection
    table = registry.projection_tables[projection]
    columns = [column.name for column in table.columns]
    with patiently(projection), session.transaction():
        lock_all(session)
        before = generations.lock_projection(session, projection)
        if before is None or before == generation.generation:
            raise OperationRefused(f"generation {generation.generation} of {projection} is live already")
        # Under the locks: whatever was looked at before may be otherwise by now.
        now = require_generation(
            session, projection, generation.generation, ("ready", "retired"), "look again"
        )
        require_lockstep(session, projection, now.generation)
        session.command(VIEW_PATIENCE)
        session.command(generation_tables.view_text(projection, columns, now.generation))
        generations.set_live(session, projection, now.generation)
        generations.set_state(session, projection, now.generation, "live")
        generations.set_state(session, projection, before, "retired")
        generation_lag.follow_live(session, projection, before)
        insert_audits(session, decision, [(projection, as_json({"from": before, "to": now.generation}))])
        faults.reach("swap.before_commit")
    faults.reach("swap.committed")
    return before
