"""Makes and drops checkpoints, and applies late events to a generation that begins at a checkpoint."""

import re

from psycopg2.errors import UniqueViolation

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.admin.rebuild.generation_locks import COPY_PATIENCE, copying, patiently
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.apply.dead_letters import Letter, lock_letter
from sluice.db.connection import Session
from sluice.db.delivery.dedup_modes import read_starts
from sluice.db.projections import generation_tables, generations
from sluice.db.projections.checkpoints import (
    MAX_NAME_BYTES,
    Checkpoint,
    checkpoint_table,
    delete_checkpoint,
    insert_checkpoint,
    read_checkpoints,
    read_letters_since,
)
from sluice.db.projections.comparison import ONE_SNAPSHOT
from sluice.db.projections.generation_deaths import read_deaths
from sluice.db.projections.generation_lanes import FOLDED
from sluice.db.projections.generations import ProjectionSnapshot, SyncedGeneration
from sluice.db.projections.table_traits import copy_traits
from sluice.db.records import GenerationState, LetterState
from sluice.db.tables import generation_name
from sluice.runtime.terminal_text import counted
from sluice.tasks.apply.generation_feed import apply_to_generation
from sluice.tasks.apply.topic_modes import topic_at
from sluice.tasks.events.decode import Decoded
from sluice.tasks.fold.plan import plan_projection
from sluice.tasks.fold.registry import Registry
from sluice.tasks.letter_records import decode_letter, is_cut, topic_of
from sluice.tasks.rebuild.known_records import load_known
from sluice.tasks.rebuild.rebuild_lane import judge_record

_NAME = re.compile(rf"[a-z][a-z0-9_]{{0,{MAX_NAME_BYTES - 1}}}")


def check_checkpoint(session: Session, projection: str, name: str, *, drop: bool) -> None:
    """Raises OperationRefused if the checkpoint cannot be made, or with `drop` if it cannot be dropped."""
    if not _NAME.fullmatch(name):
        raise OperationRefused(
            f"{name!r} is not a name for a checkpoint: use up to {MAX_NAME_BYTES} small letters, digits and"
            " _, beginning with a letter"
        )
    if projection not in generations.read_projection_snapshot(session).live:
        raise OperationRefused(
            f"there is no projection {projection}: `sluice rebuild status` lists the projections"
        )
    exists = name in {one.checkpoint for one in read_checkpoints(session, projection)}
    if drop and not exists:
        raise OperationRefused(f"{projection} has no checkpoint {name}")
    if exists and not drop:
        raise OperationRefused(
            f"{projection} has a checkpoint {name} already: pass another name, or drop it by --drop"
        )


def take_late_letters(
    session: Session, registry: Registry, projection: str, number: int, checkpoint: Checkpoint
) -> None:
    """Applies events that were dead or waiting at the checkpoint, if the live generation applied them later.

    The generation does not read these events from the log. It applies them before all records that it reads,
    because later events of the same entities waited for them at the checkpoint.
    """
    since = read_letters_since(session, checkpoint.checkpoint)
    forgotten = [one for one in since if one.state is None]
    if forgotten:
        raise OperationRefused(
            f"{counted(len(forgotten), 'event was', 'events were')} dead or waiting at checkpoint"
            f" {checkpoint.checkpoint}, and their letters were deleted, so their outcome is not known."
            " Use a newer checkpoint, or start"
            " without one"
        )
    done = [one.letter_id for one in since if one.state == LetterState.DONE and one.letter_id is not None]
    letters = [letter for letter in (lock_letter(session, one) for one in done) if letter is not None]
    for letter in letters:
        if is_cut(letter):
            raise OperationRefused(
                f"{letter.topic}:{letter.partition}:{letter.offset} was applied after checkpoint"
                f" {checkpoint.checkpoint} and is not stored, because it is over the limit of"
                " SLUICE_MAX_RECORD_KIB. Use a newer checkpoint, or start without one"
            )
    decoded = [_decode(session, registry, letter) for letter in letters]
    revision = registry.revisions[projection]
    synced = SyncedGeneration(
        projection, number, GenerationState.BUILDING, revision, has_been_live=False, from_checkpoint=True
    )
    events = [
        plan_projection(registry, registry.projection_tables[projection], one)
        for one, known in load_known(session, synced, decoded)
        if judge_record(one, known) == FOLDED
    ]
    entities = {one.decoded.topic: registry.topics[one.decoded.topic].entity.name for one in events}
    for entity in sorted(set(entities.values())):
        mine = [one for one in events if entities[one.decoded.topic] == entity]
        apply_to_generation(session, synced, mine, entity, None, singly=True)


def _decode(session: Session, registry: Registry, letter: Letter) -> Decoded:
    starts = read_starts(session, letter.topic_id, letter.partition)
    return decode_letter(topic_at(topic_of(registry, letter), starts, letter.offset), letter)


def make_checkpoint(session: Session, projection: str, checkpoint: str, decision: Decision) -> None:
    """Copies the live generation as of one moment, with the offsets that it has reached.

    Raises OperationRefused.
    """
    with (
        copying(session, projection),
        patiently(session, projection),
        session.transaction(ONE_SNAPSHOT),
    ):
        session.command(COPY_PATIENCE)
        live = generations.read_projection_snapshot(session)
        number = live.live[projection]
        _require_whole(session, live, projection)
        try:
            insert_checkpoint(session, checkpoint, projection, number, live.live_revisions[projection])
        except UniqueViolation as error:
            raise OperationRefused(
                f"there is a checkpoint {checkpoint} already: pass another name"
            ) from error
        table, source = checkpoint_table(projection, checkpoint), generation_name(projection, number)
        generation_tables.make_like(session, table, source)
        # The owner and the grants, so that the table does not belong to the role of the operator.
        copy_traits(session, source, table)
        generation_tables.fill_from(session, table, source)
        generation_tables.copy_tombstones(session, source, table)
        details = {"checkpoint": checkpoint, "generation": number}
        insert_audits(session, decision, [(projection, as_json(details))])


def _require_whole(session: Session, snapshot: ProjectionSnapshot, projection: str) -> None:
    """Raises OperationRefused if the live generation is stopped or lacks events that failed in it."""
    number = snapshot.live[projection]
    if projection in snapshot.left:
        raise OperationRefused(
            f"generation {number} of {projection} is stopped and lacks later events: first run `sluice"
            f' rebuild resume {projection} --reason "…"`'
        )
    letters, _ = read_deaths(session, projection, number, 0)
    if letters:
        raise OperationRefused(
            f"generation {number} of {projection} lacks {counted(letters, 'event')}, each failed or"
            f" behind a failed one: `sluice dlq ls --projection {projection}` lists them; redrive or drop"
            " them first"
        )


def drop_checkpoint(session: Session, projection: str, checkpoint: str, decision: Decision) -> None:
    """Drops the checkpoint and its rows. Raises OperationRefused if there is none with this name."""
    with patiently(session, projection), session.transaction():
        if not delete_checkpoint(session, checkpoint, projection):
            raise OperationRefused(f"{projection} has no checkpoint {checkpoint}")
        table = checkpoint_table(projection, checkpoint)
        generation_tables.drop_table(session, table)
        generations.delete_tombstones(session, table)
        insert_audits(session, decision, [(projection, as_json({"dropped": checkpoint}))])
