"""Starts, swaps, drops and paces generations. Each change takes locks, so that live traffic sees
it as one step.
"""

from contextlib import closing
from typing import NamedTuple

import msgspec

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.admin.rebuild.checkpoints import take_late_letters
from sluice.admin.rebuild.generation_locks import (
    COPY_PATIENCE,
    Behind,
    copying,
    lock_all,
    patiently,
    require_generation,
    require_lockstep,
)
from sluice.admin.rebuild.losses import read_drop_losses, read_swap_losses
from sluice.admin.rebuild.older_snapshots import SnapshotWait
from sluice.admin.rebuild.preflight import swap_refusals, table_refusals
from sluice.admin.rebuild.rebuild_plan import require_declared
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.apply.projection_letters import copy_dropped
from sluice.db.connection import Session
from sluice.db.projections import (
    generation_lag,
    generation_lanes,
    generation_pace,
    generation_tables,
    generations,
)
from sluice.db.projections.checkpoints import Checkpoint, place_lanes
from sluice.db.projections.comparison import read_newest_report
from sluice.db.projections.generation_deaths import forget_process_deaths, read_deaths
from sluice.db.projections.generations import Generation
from sluice.db.projections.snapshots import read_filled_xid
from sluice.db.projections.table_traits import copy_traits
from sluice.db.records import GenerationState
from sluice.db.tables import generation_name
from sluice.runtime.celery_options import REBUILD_QUEUE, REBUILD_TASK
from sluice.runtime.fault_points import faults
from sluice.runtime.settings import Settings
from sluice.tasks.fold.registry import Registry
from sluice.tasks.installation.keyring import open_keyring
from sluice.tasks.installation.opening import open_installation
from sluice.tasks.task_sender import open_sender

# A long query of a reader locks the view. The swap must not wait for this query while it has
# locked all queues.
VIEW_PATIENCE = "SET LOCAL lock_timeout = '300ms'"
BUILT = (GenerationState.BUILDING,)
SWAPPABLE = (GenerationState.READY, GenerationState.RETIRED)
DROPPABLE = (
    GenerationState.RETIRED,
    GenerationState.FAILED,
    GenerationState.READY,
    GenerationState.STOPPED,
    GenerationState.RESUMING,
)


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
    """Begins a new generation and returns its number. Removes what an earlier, failed attempt left behind.

    With `checkpoint` the generation begins as a copy of the checkpoint.
    """
    with copying(session, projection):
        return _begin(session, registry, projection, rate, compacted_topics, decision, checkpoint)


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
    with patiently(session, projection), session.transaction():
        live = generations.lock_projection(session, projection)
        if live is None:
            raise OperationRefused(f"projection {projection} has no row: run `sluice init`")
        for table in generation_tables.read_left_over(session, projection):
            generation_tables.drop_table(session, table)
        number = generations.number_generation(session, projection)
        table = generation_name(projection, number)
        generation_tables.make_like(session, table, generation_name(projection, live))
        copy_traits(session, generation_name(projection, live), table)
        if checkpoint is not None:
            session.command(COPY_PATIENCE)
            generation_tables.fill_from(session, table, checkpoint.table)
            generation_tables.copy_tombstones(session, checkpoint.table, table)
    with patiently(session, projection), session.transaction():
        lock_all(session)
        generation_lag.give_lanes(session)
        generations.begin_generation(
            session,
            projection,
            number,
            revision=revision,
            rate=rate,
            compacted_topics=msgspec.json.encode(compacted_topics).decode(),
            checkpoint=checkpoint.checkpoint if checkpoint else None,
        )
        copy_dropped(session, projection, number)
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


def call_workers(session: Session, settings: Settings, projection: str, generation: int) -> None:
    """Sends the generation's tasks to the rebuild workers now; otherwise beat sends them later.

    Raises RedisError.
    """
    installation = open_installation(settings).installation
    with closing(open_sender(settings, installation, open_keyring(settings, installation))) as sender:
        for what in generation_lag.read_lagging(session):
            if what[:2] == (projection, generation):
                sender.send(REBUILD_TASK, REBUILD_QUEUE, what)


def require_rebuilt(session: Session, projection: str, number: int | None) -> Generation:
    """Returns the generation whose pace changes; by default the generation that is being built.

    Raises OperationRefused.
    """
    states = BUILT if number is None else (*BUILT, *SWAPPABLE)
    return require_generation(session, projection, number, states, "it has no rebuild to pause or resume")


def set_pace(
    session: Session, generation: Generation, *, paused: bool, rate: int | None, decision: Decision
) -> None:
    """Pauses or resumes a rebuild, and sets its rate. Idempotent."""
    with session.transaction():
        generation_pace.set_pace(
            session, generation.projection, generation.generation, paused=paused, rate=rate
        )
        details = {"generation": generation.generation, "paused": paused, "rate": rate}
        insert_audits(session, decision, [(generation.projection, as_json(details))])


def require_building(session: Session, projection: str, number: int | None) -> Generation:
    """Returns the generation that `cancel` ends. Raises OperationRefused."""
    what = "only a generation that is being built can be cancelled"
    return require_generation(session, projection, number, BUILT, what)


def require_ended(session: Session, projection: str, number: int | None) -> Generation:
    """Returns the generation that `drop` removes. Raises OperationRefused."""
    what = "only a retired, failed, stopped or ready generation can be dropped"
    return require_generation(session, projection, number, DROPPABLE, what)


def drop(session: Session, generation: Generation, decision: Decision) -> None:
    """Drops the generation, its rows and its reports. Raises OperationRefused for the live generation."""
    with patiently(session, generation.projection), session.transaction():
        lock_all(session)
        live = generations.lock_projection(session, generation.projection)
        if live == generation.generation:
            raise OperationRefused(f"generation {generation.generation} is live: readers see it")
        if live is not None and (losses := read_drop_losses(session, generation, live)):
            raise OperationRefused("; ".join(losses))
        generations.delete_generation(session, generation.projection, generation.generation)
        forget_process_deaths(session, generation.projection, generation.generation)
        generation_tables.drop_table(session, generation.table)
        details = {"generation": generation.generation, "state": generation.state}
        insert_audits(session, decision, [(generation.projection, as_json(details))])


class SwapPlan(NamedTuple):
    """The generation that becomes live, and the number of the generation that is live now."""

    generation: Generation
    live: int


def plan_swap(
    session: Session, registry: Registry, projection: str, number: int | None, *, back: bool
) -> SwapPlan:
    """Returns the two generations of a swap. Raises OperationRefused with all reasons against the swap."""
    require_declared(registry, projection)
    generation = _previous(session, projection, number) if back else _ready(session, projection, number)
    live = generations.read_projection_snapshot(session).live[projection]
    columns = [column.name for column in registry.projection_tables[projection].columns]
    table = generation_tables.read_table(session, generation.table)
    view = generation_tables.read_table(session, projection)
    refusals = list(table_refusals(projection, generation.generation, columns, table, view))
    refusals += read_swap_losses(session, generation, live, columns)
    if not generation.has_been_live:
        report = read_newest_report(session, projection, generation.generation)
        refusals += swap_refusals(
            projection,
            generation.generation,
            differing=report.differing if report else None,
            against=report.against if report else None,
            live=live,
            approved=bool(report and report.approved_at),
            deaths=read_deaths(session, projection, generation.generation, 0)[0],
        )
    if refusals:
        raise OperationRefused(f"generation {generation.generation} of {projection}: {'; '.join(refusals)}")
    return SwapPlan(generation, live)


def _ready(session: Session, projection: str, number: int | None) -> Generation:
    what = "only a ready generation can be swapped in"
    return require_generation(session, projection, number, (GenerationState.READY,), what)


def _previous(session: Session, projection: str, number: int | None) -> Generation:
    """Returns the generation with this number; by default the generation that was live last."""
    read = generations.read_generations(session, projection)
    retired = [one for one in read if one.state == GenerationState.RETIRED]
    if number is None and retired:
        number = max(retired, key=lambda one: (one.live_at is not None, one.live_at)).generation
    what = "only a generation that was live before can be swapped back"
    return require_generation(session, projection, number, (GenerationState.RETIRED,), what)


def swap(
    session: Session,
    registry: Registry,
    generation: Generation,
    decision: Decision,
    snapshots: SnapshotWait | None = None,
) -> int:
    """Makes this generation live. Returns the previous generation, which is kept in sync from now on.

    Runs one short transaction under the locks of all queues. Raises Behind, OlderSnapshots or Held; then
    nothing has changed. Can be killed anywhere and repeated. `snapshots` has the transactions for
    which earlier attempts waited.
    """
    faults.reach("swap.before")
    projection = generation.projection
    filled_xid = (snapshots or SnapshotWait()).require(session, projection, generation.generation)
    table = registry.projection_tables[projection]
    columns = [column.name for column in table.columns]
    with patiently(session, projection), session.transaction():
        lock_all(session)
        before = generations.lock_projection(session, projection)
        if before is None or before == generation.generation:
            raise OperationRefused(f"generation {generation.generation} of {projection} is live already")
        # Checked again under the locks: everything may have changed since the first check.
        now = require_generation(session, projection, generation.generation, SWAPPABLE, "repeat the swap")
        require_lockstep(session, projection, now.generation)
        if read_filled_xid(session, projection, now.generation) != filled_xid:
            raise Behind(f"generation {now.generation} was behind the live generation at the last check")
        if losses := read_swap_losses(session, now, before, columns):
            raise OperationRefused("; ".join(losses))
        session.command(VIEW_PATIENCE)
        options = generation_tables.read_table(session, projection).options
        session.command(generation_tables.view_text(projection, columns, now.generation, options))
        generations.set_live(session, projection, now.generation)
        generations.set_state(session, projection, now.generation, GenerationState.LIVE)
        _retire(session, projection, before)
        insert_audits(session, decision, [(projection, as_json({"from": before, "to": now.generation}))])
        faults.reach("swap.before_commit")
    faults.reach("swap.committed")
    return before


def _retire(session: Session, projection: str, generation: int) -> None:
    """Keeps the previous generation in sync from now on. If it was stopped, it stays stopped at
    its offset.
    """
    [state] = [
        one.state for one in generations.read_generations(session, projection) if one.generation == generation
    ]
    if state == GenerationState.LIVE:
        generations.set_state(session, projection, generation, GenerationState.RETIRED)
        generation_lag.follow_live(session, projection, generation)
    elif state == GenerationState.STOPPED:
        generation_lanes.keep_live_places(session, projection, generation, None)
