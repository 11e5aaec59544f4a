"""The rules of `sluice doctor` about projections and their generations. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from sluice.admin.doctor.facts import DeclaredFacts, Facts, GenerationFacts
from sluice.admin.doctor.findings import Finding, error, warning
from sluice.db.projections.stopped_generations import StoppedPlace
from sluice.db.records import GenerationState
from sluice.db.tables import generation_name
from sluice.runtime.place import Place
from sluice.runtime.terminal_text import counted

KEPT_DAYS = 7.0  # since the generation was live: enough time to decide about a swap back
READABLE = (GenerationState.LIVE, GenerationState.STOPPED, GenerationState.RESUMING)


def projection_problems(generations: Sequence[GenerationFacts], declared: DeclaredFacts) -> Iterator[Finding]:
    """Yields generations that are missing, failed, or kept in sync for too long."""
    live = {one.projection: one for one in generations if one.state in READABLE}
    live |= {one.projection: one for one in generations if one.state == GenerationState.LIVE}
    for projection, revision in sorted(declared.revisions.items()):
        if projection not in live:
            yield error(f"Projection {projection} has no generation.", "Run `sluice init`.")
            continue
        begun = any(one.revision == revision for one in generations if one.projection == projection)
        if not begun:
            yield warning(
                f"Projection {projection} is at revision {revision} in code, but its live generation was"
                f" started by revision {live[projection].revision}, which computed the older rows.",
                f'Run `sluice rebuild start {projection} --reason "…"` to compute them again by the new'
                " code.",
            )
    for one in generations:
        name = f"Generation {one.generation} of {one.projection}"
        if one.state == GenerationState.FAILED:
            yield warning(
                f"{name} failed: {one.failed_reason}",
                f"Correct the cause, drop it by `{_drop(one)}`, and start another one.",
            )
        elif one.state in (GenerationState.READY, GenerationState.RETIRED) and one.idle_days > KEPT_DAYS:
            yield warning(
                f"{name} is {one.state} for {one.idle_days:.0f} days, and every batch still updates it.",
                f"Drop it by `{_drop(one)}` if you no longer need it.",
            )


def _drop(one: GenerationFacts) -> str:
    return f'sluice rebuild drop {one.projection} --generation {one.generation} --reason "…"'


def feeding_problems(facts: Facts) -> Iterator[Finding]:
    """Yields projections to which events could not be applied, and generations that no longer
    receive events.
    """
    assert facts.postgres is not None
    for letters in facts.postgres.projection_letters:
        name = letters.projection
        yield warning(
            f"{counted(letters.failed, 'event')} could not be applied to projection {name}, and"
            f" {counted(letters.waiting, 'waits', 'wait')} behind them; the other effects of these"
            " events are applied.",
            f"See `sluice dlq ls --projection {name}`; correct the code, then run `sluice dlq redrive --all"
            f' --projection {name} --reason "…"`.',
        )
    for one in facts.postgres.generations:
        if one.state == GenerationState.STOPPED:
            if generation_name(one.projection, one.generation) not in facts.postgres.columns:
                yield _dropped(one)
            else:
                yield _stopped(one, facts.postgres.stopped_places, facts.log_starts)


def _dropped(one: GenerationFacts) -> Finding:
    return error(
        f"Generation {one.generation} of {one.projection} is stopped, and its table"
        f" {generation_name(one.projection, one.generation)} does not exist.",
        "Create the table and the view again, from a backup or without rows, as docs/rebuilding.md describes;"
        f' then run `sluice rebuild start {one.projection} --reason "…"`. A resume restores no rows.',
    )


def _stopped(one: GenerationFacts, places: Sequence[StoppedPlace], starts: Mapping[Place, int]) -> Finding:
    name = f"Generation {one.generation} of {one.projection}"
    reason = " ".join((one.failed_reason or "").split())
    rebuild = f'`sluice rebuild start {one.projection} --reason "…"` fills another one'
    if not one.keeps_place:
        problem = f"{name} is stopped and cannot catch up, because its offset in the log is lost"
        return error(f"{problem}: {reason}.", f"{rebuild}.")
    mine = [p for p in places if (p.projection, p.generation) == (one.projection, one.generation)]
    left = [
        (p.applied_offset + 1 - starts[p.topic, p.partition], p)
        for p in mine
        if (p.topic, p.partition) in starts
    ]
    where = "the starts of its logs could not be read" if mine else "no event has arrived since then"
    if left:
        distance, nearest = min(left)
        place = f"{nearest.topic}:{nearest.partition}:{nearest.applied_offset + 1}"
        where = (
            f"the generation will continue at {place}, {counted(distance, 'offset')} after the log's start"
        )
        if distance < 0:
            log = f"the log of {nearest.topic}[{nearest.partition}]"
            lost = f"{log} no longer holds the records that the generation lacks"
            return error(f"{name} is stopped, and {lost}: {reason}.", f"{rebuild}.")
    return error(
        f"{name} is stopped, and readers see old rows: {reason}; {where}.",
        f'Correct the cause, and run `sluice rebuild resume {one.projection} --reason "…"` before retention'
        " deletes these records.",
    )
