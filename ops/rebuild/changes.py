"""What `sluice rebuild` changes, each under the locks that make it one step for live traffic."""

import msgspec

from db import generation_tables, lockstep, projections
from db.audit import Decision, insert_audits
from db.checkpoints import Checkpoint, place_lanes
from db.projections import Generation
from db.rebuilt_partitions import end_rebuild, try_rebuild
from db.session import Session
from db.tables import generation_name
from ops.decisions import NotDone
from ops.printing import as_json
from ops.rebuild.checkpoints import take_late_letters
from ops.rebuild.holding import (
    COPY_PATIENCE,
    Held,
    lock_all,
    patiently,
    require_generation,
    require_lockstep,
)
from tasks.faults import faults
from tasks.handlers import Registry

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
        live = projections.lock_projection(session, projection)
        if live is None:
            raise NotDone(f"projection {projection} has no row: run `sluice init`")
        for table in generation_tables.read_left_over(session, projection):
            generation_tables.drop_table(session, table)
        number = projections.number_generation(session, projection)
        table = generation_name(projection, number)
        generation_tables.make_like(session, table, generation_name(projection, live))
        if checkpoint is not None:
            session.command(COPY_PATIENCE)
            generation_tables.fill_from(session, table, checkpoint.table)
            generation_tables.copy_tombstones(session, checkpoint.table, table)
    with patiently(projection), session.transaction():
        lock_all(session)
        lockstep.give_lanes(session)
        projections.begin_generation(
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
        projections.set_pace(session, generation.projection, generation.generation, paused=paused, rate=rate)
        details = {"generation": generation.generation, "paused": paused, "rate": rate}
        insert_audits(session, decision, [(generation.projection, as_json(details))])


def drop(session: Session, generation: Generation, decision: Decision) -> None:
    """The generation, its rows and its reports are gone. Raises NotDone for the live one."""
    with patiently(generation.projection), session.transaction():
        lock_all(session)
        if projections.lock_projection(session, generation.projection) == generation.generation:
            raise NotDone(f"generation {generation.generation} is live: readers see it")
        projections.delete_generation(session, generation.projection, generation.generation)
        generation_tables.drop_table(session, generation.table)
        details = {"generation": generation.generation, "state": generation.state}
        insert_audits(session, decision, [(generation.projection, as_json(details))])


def swap(session: Session, registry: Registry, generation: Generation, decision: Decision) -> int:
    """Readers see this generation from now on; the one they saw before, which is fed from now on.

    One short transaction under the locks of all queues. Raises Behind or Held: nothing has changed then. May
    run again after being killed anywhere.
    """
    projection = generation.projection
    table = registry.projection_tables[projection]
    columns = [column.name for column in table.columns]
    with patiently(projection), session.transaction():
        lock_all(session)
        before = projections.lock_projection(session, projection)
        if before is None or before == generation.generation:
            raise NotDone(f"generation {generation.generation} of {projection} is live already")
        # Under the locks: whatever was looked at before may be otherwise by now.
        now = require_generation(
            session, projection, generation.generation, ("ready", "retired"), "look again"
        )
        require_lockstep(session, projection, now.generation)
        session.command(VIEW_PATIENCE)
        session.command(generation_tables.view_text(projection, columns, now.generation))
        projections.set_live(session, projection, now.generation)
        projections.set_state(session, projection, now.generation, "live")
        projections.set_state(session, projection, before, "retired")
        lockstep.follow_live(session, projection, before)
        insert_audits(session, decision, [(projection, as_json({"from": before, "to": now.generation}))])
        faults.reach("swap.before_commit")
    faults.reach("swap.committed")
    return before
