"""The rules of `sluice doctor` about missing processes, and the work that waits for them. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from sluice.admin.doctor.facts import (
    DeclaredFacts,
    GenerationFacts,
    LeavingFacts,
    PostgresFacts,
    WorkingFacts,
)
from sluice.admin.doctor.findings import Finding, warning
from sluice.admin.doctor.rules_retrying import say_duration
from sluice.db.delivery.living_processes import Process
from sluice.db.records import GenerationState, ProcessKind
from sluice.runtime.celery_options import EFFECTS_QUEUE, MAINTENANCE_QUEUE, REBUILD_QUEUE, RELAY_QUEUE
from sluice.runtime.terminal_text import counted

BEAT_SILENCE_SECONDS = 15.0  # the beat renews its lock every second


def process_problems(postgres: PostgresFacts, declared: DeclaredFacts) -> Iterator[Finding]:
    """Yields a finding for each kind of process that does not run, with the work that waits for it."""
    if postgres.refusal is not None or postgres.working is None or postgres.leaving is None:
        return  # No process starts, or Sluice's tables cannot be read.
    yield from _no_bridge(postgres, declared)
    yield from _no_beat(postgres.working, postgres.living)
    yield from _no_relay(postgres.leaving, postgres.living)
    if declared.effects and not _is_served(EFFECTS_QUEUE, postgres.living):
        due = postgres.leaving.due_calls
        waiting = (
            f"; {counted(due.calls, 'call is', 'calls are')} due, the oldest for {say_duration(due.seconds)}"
            if due.calls
            else ""
        )
        yield warning(
            f"No worker serves the queue {EFFECTS_QUEUE}: no call is made{waiting}.",
            "Start one: `sluice effects-worker`.",
        )
    unfilled = (unfilled_problem(generation, postgres.living) for generation in postgres.generations)
    yield from filter(None, unfilled)


def unfilled_problem(generation: GenerationFacts, living: Sequence[Process]) -> Finding | None:
    """Returns a finding if the generation needs a worker that fills it and no such worker runs; else None."""
    needs = generation.lags or generation.state == GenerationState.BUILDING
    if not needs or generation.paused or _is_served(REBUILD_QUEUE, living):
        return None
    name = f"Generation {generation.generation} of {generation.projection}"
    what = (
        "is building" if generation.state == GenerationState.BUILDING else f"is {generation.state} and lags"
    )
    return warning(
        f"{name} {what}, and no worker serves the queue {REBUILD_QUEUE}, so nothing fills the generation.",
        "Start one: `sluice rebuild-worker`.",
    )


def has_relay(postgres: PostgresFacts) -> bool:
    """Returns True if the processes that send outgoing events and dispatch calls are alive."""
    working = postgres.working
    return (
        _is_served(RELAY_QUEUE, postgres.living)
        and working is not None
        and not list(_no_beat(working, postgres.living))
    )


def has_effects_worker(postgres: PostgresFacts) -> bool:
    """Returns True if a worker that makes calls is alive."""
    return _is_served(EFFECTS_QUEUE, postgres.living)


def has_rebuild_worker(postgres: PostgresFacts) -> bool:
    """Returns True if a worker that fills generations is alive."""
    return _is_served(REBUILD_QUEUE, postgres.living)


def still_problems(
    generations: Sequence[GenerationFacts], still: Mapping[tuple[str, int], float]
) -> Iterator[Finding]:
    """Yields generations that no worker fills, although a worker serves their queue."""
    for one in generations:
        seconds = still.get((one.projection, one.generation))
        if seconds is not None:
            yield warning(
                f"Generation {one.generation} of {one.projection} lags, and nothing was written to it in"
                f" {seconds:.0f} s.",
                f"Read the log of the workers on `{REBUILD_QUEUE}`; until the generation is live, only code"
                f" of revision {one.revision} fills it.",
            )


def _is_served(queue: str, living: Sequence[Process]) -> bool:
    return any(one.kind is ProcessKind.WORKER and queue in (one.queues or ()) for one in living)


def _no_bridge(postgres: PostgresFacts, declared: DeclaredFacts) -> Iterator[Finding]:
    bridges = postgres.bridges
    if not bridges:
        yield warning("No bridge runs: no topic is read.", "Start one: `sluice bridge`.")
        return
    unread = sorted(declared.topics - {topic for bridge in bridges for topic in bridge.topics})
    if unread:
        yield warning(
            f"No running bridge declares {', '.join(unread)}, so no record of these topics is read.",
            "Run the bridges with the SLUICE_HANDLERS of this command; during a rolling deployment this is"
            " expected.",
        )


def _no_beat(working: WorkingFacts, living: Sequence[Process]) -> Iterator[Finding]:
    consequence = "events whose sending failed are not sent again, and no call, retry or rebuild is started"
    silence = working.beat_silence
    if silence is not None and silence > BEAT_SILENCE_SECONDS:
        yield warning(
            f"The beat that schedules has not reported for {say_duration(silence)}: {consequence}.",
            "Check its process and its machine, and restart it; another beat takes over when its session in"
            " Postgres has ended.",
        )
    elif silence is None:
        alive = any(one.kind is ProcessKind.BEAT for one in living)
        yield warning(
            f"No beat schedules: {consequence}.",
            "Read the log of the beat that runs, and restart it." if alive else "Start one: `sluice beat`.",
        )


def _no_relay(leaving: LeavingFacts, living: Sequence[Process]) -> Iterator[Finding]:
    missing = [queue for queue in (RELAY_QUEUE, MAINTENANCE_QUEUE) if not _is_served(queue, living)]
    if not missing:
        return
    events = sum(one.free for one in leaving.outgoing)
    oldest = max((one.free_seconds for one in leaving.outgoing), default=0.0)
    waiting = (
        f"; {counted(events, 'outgoing event waits', 'outgoing events wait')}, the oldest for"
        f" {say_duration(oldest)}"
        if events
        else ""
    )
    several = len(missing) > 1
    yield warning(
        f"No worker serves the queue{'s' if several else ''} {' and '.join(missing)}:"
        f" {_LOST[missing[0]]}{waiting}.",
        "Start one: `sluice relay`.",
    )


_LOST = {
    RELAY_QUEUE: "no outgoing event is sent and no call is dispatched",
    MAINTENANCE_QUEUE: "no retry or rebuild is started, and nothing is purged",
}
