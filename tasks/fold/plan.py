"""Runs the handlers of one event until they need a row, to find the rows that they touch. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from typing import Any, TypeVar, cast

import msgspec
from sqlalchemy import Table

from sluice.runtime.handler_watch import HandlerWatch
from sluice.runtime.worker_stop import is_worker_stop
from sluice.tasks.api import Call, Effect, Emit, Event, Increment, Read, Topic
from sluice.tasks.events.decode import Decoded
from sluice.tasks.events.event_fault import EventFault
from sluice.tasks.events.missing_id import missing_id_error
from sluice.tasks.fold.handler_faults import blame
from sluice.tasks.fold.handler_steps import HandlerSteps, begin_run, end_quietly
from sluice.tasks.fold.registry import AnyEntry, ProjectionEntry, Registry

E = TypeVar("E", bound=AnyEntry)
T = TypeVar("T")


class HandlerRun(msgspec.Struct):
    """The first run of one handler: its effects and its error. A run that reads a row stops at the Read.

    A handler without a Read does not depend on rows, so it has no further run. `event` holds the data as
    JSON; every run gets its own copy.
    """

    entry: AnyEntry
    event: Event[Any]
    effects: list[Effect]
    error: EventFault | None = None
    reads: bool = False

    @property
    def into(self) -> Table | None:
        """Returns the projection that this handler fills, its only table. None if it fills no projection."""
        return entry_into(self.entry)


class Planned(msgspec.Struct):
    """A decoded record with its handlers' first runs. With an `error`, the event becomes a dead letter."""

    decoded: Decoded
    runs: Sequence[HandlerRun] = ()
    ignored: bool = False
    error: EventFault | None = None
    parks: bool = True
    """True if the entity is parked when this event becomes a dead letter."""

    @property
    def parts(self) -> list[Sequence[HandlerRun]]:
        """Returns the runs in groups: first the runs that fill no projection, then a group per projection."""
        return _parts(self.runs, lambda run: run.into)


class NoHandler(Exception):
    """The event's type has no handler, and the topic does not ignore the type."""


def plan_event(registry: Registry, topic: Topic, decoded: Decoded) -> Planned:
    """Finds the handlers of an event and runs each one time. Stores their errors instead of raising them."""
    planned = _plan(registry, topic, decoded)
    planned.parks = topic.on_failure == "park"
    return planned


def _plan(registry: Registry, topic: Topic, decoded: Decoded) -> Planned:
    event = decoded.event
    if event is None:
        return Planned(decoded)
    entries = find_entries(registry, event)
    if not entries:
        if event.type in topic.ignores:
            return Planned(decoded, ignored=True)
        advice = (
            f"no handler for type {event.type!r} of topic {topic.name}, which does not ignore it; write a"
            f" handler with @handles({event.type!r}), or declare Topic({topic.name!r}, …,"
            f" ignores=({event.type!r},))"
        )
        return Planned(decoded, error=EventFault.of(NoHandler(advice)))
    if decoded.lacks_id and topic.dedup == "id":
        return Planned(decoded, error=EventFault.of(missing_id_error(topic)))
    return _run(decoded, event, entries)


def plan_projection(registry: Registry, projection: Table, decoded: Decoded) -> Planned:
    """Does the work of `plan_event` for one projection. Ignores event types that it does not handle.

    An event without an id is accepted, because a worker applied it while the topic had dedup="position".
    """
    event = decoded.event
    if event is None:
        return Planned(decoded, parks=False)
    handling = _of_topic(registry.projections.get(event.type, ()), event)
    entries = [entry for entry in handling if entry.into is projection]
    planned = _run(decoded, event, entries) if entries else Planned(decoded, ignored=True)
    planned.parks = registry.topics[decoded.topic].on_failure == "park"
    return planned


def part_of(planned: Planned, projection: Table) -> Planned:
    """Returns the part of a planned event that belongs to one projection."""
    runs = [run for run in planned.runs if run.into is projection]
    return Planned(planned.decoded, runs, ignored=not runs, parks=planned.parks)


def _run(decoded: Decoded, event: Event[Any], entries: Sequence[AnyEntry]) -> Planned:
    runs: list[HandlerRun] = []
    try:
        for part in _parts(entries, entry_into):
            # Each part has the whole time limit, so that no projection uses up the time of others.
            watch = begin_run(decoded)
            try:
                for entry in part:
                    runs.append(_first_run(entry, event, watch, decoded.is_natural))
            finally:
                watch.end()
        return Planned(decoded, runs)
    except BaseException as error:
        if is_worker_stop(error):
            raise
        return Planned(decoded, error=EventFault.of(error))


def entry_into(entry: AnyEntry) -> Table | None:
    """Returns the projection that a handler fills, or None."""
    return entry.into if isinstance(entry, ProjectionEntry) else None


def _parts(things: Sequence[T], into: Callable[[T], Table | None]) -> list[Sequence[T]]:
    if len(things) == 1:
        return [things]
    parts: dict[Table | None, list[T]] = {None: []}
    for thing in things:
        parts.setdefault(into(thing), []).append(thing)
    return [part for part in parts.values() if part]


def find_entries(registry: Registry, event: Event[Any]) -> Sequence[AnyEntry]:
    """Returns the handlers that take this event, those of projections last."""
    handlers, projections = registry.handlers.get(event.type, ()), registry.projections.get(event.type, ())
    if len(handlers) == 1 and not projections and handlers[0].topics is None:
        return handlers  # the usual case
    return [*_of_topic(handlers, event), *_of_topic(projections, event)]


def _of_topic(entries: Sequence[E], event: Event[Any]) -> list[E]:
    return [entry for entry in entries if entry.topics is None or event.topic in entry.topics]


def touched_rows(planned: Planned, left: Set[str] = frozenset()) -> list[tuple[Table, str]]:
    """Returns the rows that the first runs touch. The fold loads further rows itself.

    Rows of the projections in `left` are omitted.
    """
    touched: list[tuple[Table, str]] = []
    for run in planned.runs:
        if not left or run.into is None or run.into.name not in left:
            _add_touched(run.effects, touched)
    return touched


def called_effects(planned: Planned) -> Iterator[tuple[HandlerRun, int, Call]]:
    """Yields the calls of the first runs, with their ordinals."""
    for run in planned.runs:
        for ordinal, effect in enumerate(run.effects, start=1):
            if isinstance(effect, Call):
                yield run, ordinal, effect


def _first_run(entry: AnyEntry, event: Event[Any], watch: HandlerWatch, is_natural: bool) -> HandlerRun:
    run = HandlerRun(entry, event, [])
    # Does not use the generator `iter_effects`, because the handlers take most of an event's time.
    steps = HandlerSteps(entry, event, watch, is_natural=is_natural)
    try:
        steps.collect(run.effects)
        if run.effects and type(run.effects[-1]) is Read:
            run.reads = True
            end_quietly(steps)
    except BaseException as error:
        end_quietly(steps)
        if is_worker_stop(error):
            raise
        run.error = blame(error, entry)
    return run


def _add_touched(effects: Iterable[Effect], touched: list[tuple[Table, str]]) -> None:
    for effect in effects:
        if isinstance(effect, Emit | Call):
            continue
        touched.append((effect.table, cast(str, effect.key)))
        if isinstance(effect, Increment):
            _add_touched(effect.otherwise, touched)
