"""Runs the handlers of one event as far as they go without rows, to learn which rows they touch. Pure."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Table

from sluice.db.errors import DeploymentBroken
from sluice.tasks.api import Call, Effect, Emit, Event, Increment, Read, Topic
from sluice.tasks.events.decode import Decoded, convert_data
from sluice.tasks.events.event_fault import EventFault, HandlerFailed
from sluice.tasks.fold.handler_steps import iter_effects
from sluice.tasks.fold.registry import AnyEntry, ProjectionEntry, Registry


@dataclass(slots=True)
class HandlerRun:
    """One handler's first run: all its effects and how it ended, or nothing where it asked for a row.

    A handler that reads no row does not depend on any, so this run is the only one it needs.
    """

    entry: AnyEntry
    event: Event[Any]
    effects: list[Effect]
    error: EventFault | None = None
    reads: bool = False

    @property
    def into(self) -> Table | None:
        """The projection that this handler fills: all that it may touch. None: it fills none."""
        return self.entry.into if isinstance(self.entry, ProjectionEntry) else None

    def iter_effects(self) -> Generator[Effect, Any, None]:
        """The handler's effects: the remembered ones, or a fresh run that is sent the rows it reads."""
        if self.reads:
            yield from iter_effects(self.entry, self.event)
            return
        yield from self.effects
        if self.error is not None:
            raise HandlerFailed(self.error)


@dataclass(slots=True)
class Planned:
    """One record on its way into the fold: decoded, with its handlers' first runs. `error` kills it."""

    decoded: Decoded
    runs: Sequence[HandlerRun] = ()
    ignored: bool = False
    error: EventFault | None = None
    parks: bool = True
    """Whether its death parks its entity."""


class NoHandler(Exception):
    """No handler for this type, and the topic does not ignore it."""


def plan_event(registry: Registry, topic: Topic, decoded: Decoded) -> Planned:
    """Finds and first-runs the handlers. Raises DeploymentBroken only: an event's own fault is its error."""
    planned = _plan(registry, topic, decoded)
    planned.parks = topic.on_failure == "park"
    return planned


def _plan(registry: Registry, topic: Topic, decoded: Decoded) -> Planned:
    event = decoded.event
    if event is None:
        return Planned(decoded)
    entries: tuple[AnyEntry, ...] = registry.handlers.get(event.type, ())
    entries += registry.projections.get(event.type, ())
    if not entries:
        if event.type in topic.ignores:
            return Planned(decoded, ignored=True)
        known = f"no handler for type {event.type!r} and topic {topic.name} does not ignore it"
        return Planned(decoded, error=EventFault.of(NoHandler(known)))
    return _run(decoded, event, entries)


def plan_projection(registry: Registry, projection: Table, decoded: Decoded) -> Planned:
    """As `plan_event`, for one projection alone: whatever it does not handle is ignored."""
    event = decoded.event
    if event is None:
        return Planned(decoded, parks=False)
    entries = [entry for entry in registry.projections.get(event.type, ()) if entry.into is projection]
    planned = _run(decoded, event, entries) if entries else Planned(decoded, ignored=True)
    planned.parks = False
    return planned


def part_of(planned: Planned, projection: Table) -> Planned:
    """What one projection's handlers make of an event that is planned already."""
    runs = [run for run in planned.runs if run.into is projection]
    return Planned(planned.decoded, runs, ignored=not runs, parks=False)


def _run(decoded: Decoded, event: Event[Any], entries: Sequence[AnyEntry]) -> Planned:
    try:
        return Planned(decoded, [_first_run(entry, _typed(event, entry.data_type)) for entry in entries])
    except DeploymentBroken:
        raise
    except Exception as error:
        return Planned(decoded, error=EventFault.of(error))


def touched_rows(planned: Planned) -> Iterator[tuple[Table, str]]:
    """Rows that the first runs are known to touch; the fold asks for any others itself."""
    for run in planned.runs:
        yield from _touched(run.effects)


def called_effects(planned: Planned) -> Iterator[tuple[HandlerRun, int, Call]]:
    """The calls of the first runs, with their ordinals."""
    for run in planned.runs:
        for ordinal, effect in enumerate(run.effects, start=1):
            if isinstance(effect, Call):
                yield run, ordinal, effect


def _typed(event: Event[Any], data_type: Any) -> Event[Any]:
    data = convert_data(event.data, data_type)
    return event if data is event.data else msgspec.structs.replace(event, data=data)


def _first_run(entry: AnyEntry, event: Event[Any]) -> HandlerRun:
    run = HandlerRun(entry, event, [])
    try:
        for effect in iter_effects(entry, event):
            run.effects.append(effect)
            if isinstance(effect, Read):
                run.reads = True
                break
    except ImportError as error:
        raise DeploymentBroken(f"{entry.name} cannot import {error.name}: {error}") from error
    except Exception as error:
        run.error = EventFault.of(error)
    return run


def _touched(effects: Sequence[Effect]) -> Iterator[tuple[Table, str]]:
    for effect in effects:
        if isinstance(effect, Emit | Call):
            continue
        if isinstance(getattr(effect, "key", None), str):
            yield effect.table, effect.key  # type: ignore[misc]
        if isinstance(effect, Increment):
            yield from _touched(effect.otherwise)
