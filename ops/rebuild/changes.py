"""What `sluice rebuild` changes, each under the locks that make it one step for live traffic."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from psycopg2.errors import (
    DeadlockDetected,
    DependentObjectsStillExist,
    LockNotAvailable,
    QueryCanceled,
    UniqueViolation,
)

from db import generation_lanes, generation_tables, projections, reports
from db.audit import Decision, insert_audits
from db.checkpoints import (
    Checkpoint,
    checkpoint_table,
    delete_checkpoint,
    insert_checkpoint,
    place_lanes,
    read_letters_since,
)
from db.comparing import ONE_SNAPSHOT, PATIENCE, Comparer, Comparison
from db.dead_letters import lock_letter
from db.generation_lanes import FOLDED, insert_deaths, read_lane_states
from db.identities import load_outcomes
from db.projections import Fed, Generation
from db.session import Session
from db.tables import generation_name
from ops.decisions import NotDone
from ops.printing import as_json
from ops.rebuild.report import report_document
from tasks.faults import faults
from tasks.feeding import apply_to_generation
from tasks.handlers import Registry
from tasks.plan import plan_projection
from tasks.rebuild import judge_record
from tasks.redrive import decode_letter

# Live traffic stands still while all queues are locked: rather try again than wait for the last one long.
COPY_PATIENCE = "SET LOCAL statement_timeout = 0"
LOCK_PATIENCE = "SET LOCAL lock_timeout = '1s'"
VIEW_PATIENCE = "SET LOCAL lock_timeout = '300ms'"


class Behind(Exception):
    """Lanes of the generation are behind live just now: it may be otherwise in a moment."""


class Held(NotDone):
    """Somebody holds a lock that is needed: it may be otherwise in a moment. Nothing was changed."""


def require_generation(
    session: Session, projection: str, generation: int | None, states: tuple[str, ...], what: str
) -> Generation:
    """The generation, or the only one in one of these states. Raises NotDone."""
    found = projections.read_generations(session, projection)
    if not found:
        raise NotDone(f"there is no projection {projection}: `sluice rebuild status` lists them")
    if generation is not None:
        named = [one for one in found if one.generation == generation]
        if not named:
            raise NotDone(f"{projection} has no generation {generation}")
        if named[0].state not in states:
            raise NotDone(f"generation {generation} of {projection} is {named[0].state}: {what}")
        return named[0]
    fitting = [one for one in found if one.state in states]
    if len(fitting) != 1:
        numbers = ", ".join(f"{one.generation} is {one.state}" for one in found)
        raise NotDone(
            f"{projection}: {what}; {'none' if not fitting else 'more than one'} is"
            f" {' or '.join(states)} ({numbers}): name it by --generation"
        )
    return fitting[0]


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
        generation_lanes.give_lanes(session)
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
            _take_late_letters(session, registry, projection, number, checkpoint)
        details = {
            "generation": number,
            "revision": revision,
            "rate": rate,
            "from": checkpoint.checkpoint if checkpoint else None,
        }
        insert_audits(session, decision, [(projection, as_json(details))])
    return number


def _take_late_letters(
    session: Session, registry: Registry, projection: str, number: int, checkpoint: Checkpoint
) -> None:
    """Events that were dead or waiting at the checkpoint, and were applied since: nobody comes by them again.

    They come before all that is read from the log: what came after them of their entities waited then.
    """
    since = read_letters_since(session, checkpoint.checkpoint)
    forgotten = [one for one in since if one.state is None]
    if forgotten:
        raise NotDone(
            f"{len(forgotten)} events were dead or waiting at checkpoint {checkpoint.checkpoint} and are no"
            " longer listed: what became of them is not known. Take a newer one, or begin without"
        )
    done = [one.letter_id for one in since if one.state == "done" and one.letter_id is not None]
    letters = [letter for letter in (lock_letter(session, one) for one in done) if letter is not None]
    decoded = [decode_letter(registry, letter) for letter in letters]
    outcomes = load_outcomes(session, [one.identity for one in decoded])
    events = [
        plan_projection(registry, registry.projection_tables[projection], one)
        for one in decoded
        if judge_record(one, outcomes.get(one.identity)) == FOLDED
    ]
    fed = Fed(projection, number, "building", registry.revisions[projection], has_been_live=False)
    insert_deaths(session, projection, number, apply_to_generation(session, fed, events))


def make_checkpoint(session: Session, projection: str, checkpoint: str, decision: Decision) -> None:
    """The live generation is copied as it is at one cut, with where live is. Raises NotDone."""
    with patiently(projection), session.transaction(ONE_SNAPSHOT):
        session.command(COPY_PATIENCE)
        live = projections.read_standing(session)
        number = live.live[projection]
        try:
            insert_checkpoint(session, checkpoint, projection, number, live.live_revisions[projection])
        except UniqueViolation as error:
            raise NotDone(f"there is a checkpoint {checkpoint} already: take another name") from error
        table, source = checkpoint_table(projection, checkpoint), generation_name(projection, number)
        generation_tables.make_like(session, table, source)
        generation_tables.fill_from(session, table, source)
        generation_tables.copy_tombstones(session, source, table)
        details = {"checkpoint": checkpoint, "generation": number}
        insert_audits(session, decision, [(projection, as_json(details))])


def drop_checkpoint(session: Session, projection: str, checkpoint: str, decision: Decision) -> None:
    """The checkpoint and its rows are gone. Raises NotDone if there is none of this name."""
    with patiently(projection), session.transaction():
        if not delete_checkpoint(session, checkpoint, projection):
            raise NotDone(f"{projection} has no checkpoint {checkpoint}")
        table = checkpoint_table(projection, checkpoint)
        generation_tables.drop_table(session, table)
        projections.delete_tombstones(session, table)
        insert_audits(session, decision, [(projection, as_json({"dropped": checkpoint}))])


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


def compare(
    session: Session,
    registry: Registry,
    generation: Generation,
    *,
    say: Callable[[Comparison], None] = lambda _: None,
) -> reports.Report:
    """Compares with the live generation at one cut, and stores what was found. Raises Behind."""
    projection = generation.projection
    with session.transaction(ONE_SNAPSHOT):
        session.command(PATIENCE)
        live = projections.read_standing(session).live[projection]
        require_lockstep(session, projection, generation.generation)
        comparer = Comparer(
            session,
            registry.projection_tables[projection],
            generation_name(projection, live),
            generation.table,
        )
        found = Comparison()
        for found in comparer.run():
            say(found)
        passed = generation_lanes.read_passed(session, projection, generation.generation)
        deaths = generation_lanes.read_deaths(session, projection, generation.generation, 20)
        document = report_document(found, passed, deaths)
    reports.insert_report(
        session, projection, generation.generation, live, found.differences, as_json(document)
    )
    stored = reports.read_newest_report(session, projection, generation.generation)
    assert stored is not None
    return stored


def approve(session: Session, report: reports.Report, decision: Decision) -> None:
    """The differences are wanted. May run twice."""
    with session.transaction():
        if reports.approve_report(session, report.id, decision.actor):
            details = {"generation": report.generation, "report": report.id, "differing": report.differing}
            insert_audits(session, decision, [(report.projection, as_json(details))])


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
        # A reader in a long query has the view: nobody is to wait for him, with all queues locked.
        session.command(VIEW_PATIENCE)
        session.command(generation_tables.view_text(projection, columns, now.generation))
        projections.set_live(session, projection, now.generation)
        projections.set_state(session, projection, now.generation, "live")
        projections.set_state(session, projection, before, "retired")
        generation_lanes.follow_live(session, projection, before)
        insert_audits(session, decision, [(projection, as_json({"from": before, "to": now.generation}))])
        faults.reach("swap.before_commit")
    faults.reach("swap.committed")
    return before


def lock_all(session: Session) -> None:
    """Takes the locks of all queues, or raises what `patiently` translates."""
    session.command(LOCK_PATIENCE)
    generation_tables.lock_all_queues(session)


def require_lockstep(session: Session, projection: str, generation: int) -> None:
    """Raises Behind unless every lane is where live is.

    From a checkpoint on a lane may stand higher: at the watermark, below which live has nothing left.
    """
    lanes = [
        lane for lane in read_lane_states(session, projection, generation) if lane.generation < lane.live
    ]
    if lanes:
        first = lanes[0]
        raise Behind(
            f"{len(lanes)} lanes of generation {generation} are behind live, the first is"
            f" {first.topic}[{first.partition}] in {first.queue}: {first.generation} of {first.live}"
        )


@contextmanager
def patiently(projection: str) -> Iterator[None]:
    """Raises Held where somebody holds a lock for too long, NotDone where something depends on a table."""
    try:
        yield
    except DependentObjectsStillExist as error:
        detail = str(error.diag.message_detail or error).splitlines()[0]
        raise NotDone(f"{projection}: {detail}; make it read the view {projection} instead") from error
    except (LockNotAvailable, QueryCanceled, DeadlockDetected) as error:
        raise Held(f"a queue, or the view {projection}, is in somebody's hand for too long") from error
