"""Collects handlers, effects and topics from the user's modules. Refuses invalid declarations at start."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any, TypeAlias, TypeVar

from sqlalchemy import MetaData, Table

from sluice.db.tables import Shape, TableRefused, shape_of
from sluice.tasks.api import (
    MARK,
    EffectDeclaration,
    Entity,
    Handler,
    Handles,
    Projects,
    Topic,
)
from sluice.tasks.fold.declared_arguments import effect_flaw, listed, projects_flaw, topic_flaw
from sluice.tasks.fold.handler_modules import import_modules
from sluice.tasks.fold.handler_signature import HandlersRefused as HandlersRefused
from sluice.tasks.fold.handler_signature import data_type_of, event_types, topic_names
from sluice.tasks.fold.known_tables import find_tables, tables_by_name
from sluice.tasks.fold.natural import refuse_unnatural
from sluice.tasks.fold.topic_names import topic_name_flaw
from sluice.tasks.fold.unyielded import refuse_unyielded
from sluice.tasks.fold.versionless import topics_of_projections, versionless_flaw

E = TypeVar("E", bound="HandlerEntry | ProjectionEntry")
FIRST_REVISION = 1
MAX_ENTITY_NAME = 64  # characters; every queue's name begins with it


@dataclass(frozen=True)
class HandlerEntry:
    """One collected handler. `data_type` is X of its parameter `Event[X]`; Any without `[X]`."""

    name: str
    types: tuple[str, ...]
    function: Handler
    data_type: Any
    topics: tuple[str, ...] | None
    """None if the handler takes events of every topic."""
    effects: Mapping[str, "EffectEntry"] = field(repr=False, compare=False)
    """The effects that the handler may call: all declared effects."""
    tables: Mapping[str, Table] = field(repr=False, compare=False)
    """The tables that the handler may use: all tables known at start."""
    used: dict[Table, Shape] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The tables of checked effects of the handler, so that a table is checked only one time."""


@dataclass(frozen=True)
class ProjectionEntry(HandlerEntry):
    """One collected projection handler."""

    into: Table
    revision: int
    sources: Mapping[str, frozenset[str]] = field(repr=False, compare=False)
    """Projection → the topics whose events its handlers take."""


AnyEntry: TypeAlias = HandlerEntry | ProjectionEntry


@dataclass(frozen=True)
class EffectEntry:
    """One collected effect function."""

    declaration: EffectDeclaration
    function: Callable[..., Any]


@dataclass
class Registry:
    """Everything that the modules in SLUICE_HANDLERS declare."""

    topics: dict[str, Topic] = field(default_factory=dict)
    entities: dict[str, Entity] = field(default_factory=dict)
    handlers: dict[str, tuple[HandlerEntry, ...]] = field(default_factory=dict)
    """Event type → its handlers, in the order of their names."""
    projections: dict[str, tuple[ProjectionEntry, ...]] = field(default_factory=dict)
    """Event type → its projection handlers, in the order of their names."""
    projection_tables: dict[str, Table] = field(default_factory=dict)
    """Projection → its table. `revisions`: projection → revision of the code that fills it."""
    revisions: dict[str, int] = field(default_factory=dict)
    projection_topics: dict[str, frozenset[str]] = field(default_factory=dict)
    """Projection → the topics whose events its handlers take."""
    effects: dict[str, EffectEntry] = field(default_factory=dict)
    outgoing_topics: set[str] = field(default_factory=set)
    """Topics that handlers emit to, if the modules declare them."""
    metadatas: list[MetaData] = field(default_factory=list)
    """The metadata of all tables that the handlers' modules use."""
    tables: dict[str, Table] = field(default_factory=dict)
    """Name → table, for all tables that `entity_table` or `projection_table` made before the start."""

    def topics_by_entity(self) -> dict[str, list[str]]:
        """Returns entity type → the names of its topics."""
        found: dict[str, list[str]] = {entity.name: [] for entity in self.entities.values()}
        for topic in self.topics.values():
            found[topic.entity.name].append(topic.name)
        return found


def collect_handlers(names: str) -> Registry:
    """Imports the comma-separated modules and collects what they declare. Raises HandlersRefused."""
    return collect_modules(import_modules(names))


def collect_modules(modules: Iterable[ModuleType]) -> Registry:
    """Collects the declarations of the modules, each object one time. Raises HandlersRefused."""
    registry = Registry()
    seen: set[int] = set()
    modules = list(modules)
    for module in modules:
        _add_topics(registry, getattr(module, "topics", ()), module.__name__)
        _add_outgoing_topics(registry, getattr(module, "outgoing_topics", ()), module.__name__)
        for thing in vars(module).values():
            if id(thing) in seen or not callable(thing):
                continue
            seen.add(id(thing))
            for declaration in getattr(thing, MARK, ()):
                if not isinstance(thing, FunctionType):
                    raise HandlersRefused(
                        f"{module.__name__}: {thing!r:.80} is declared as a handler or an effect and is"
                        " not a function"
                    )
                _add_function(registry, thing, declaration)
    if not registry.topics:
        raise HandlersRefused("no module of SLUICE_HANDLERS has `topics = (Topic(...), …)`")
    every = [
        entry
        for entries in (*registry.handlers.values(), *registry.projections.values())
        for entry in entries
    ]
    for entry in every:
        _refuse_undeclared_topics(registry, entry)
    _refuse_unhandled_topics(registry, every, [module.__name__ for module in modules])
    projecting = [entry for of_type in registry.projections.values() for entry in of_type]
    registry.projection_topics.update(topics_of_projections(projecting, registry.topics))
    if (flaw := versionless_flaw(projecting)) is not None:
        raise HandlersRefused(flaw)
    refuse_unnatural(every, registry.topics)
    _add_tables(registry, modules)
    return registry


def _add_tables(registry: Registry, modules: Iterable[ModuleType]) -> None:
    for table in (*registry.projection_tables.values(), *find_tables(modules)):
        if table.metadata not in registry.metadatas:
            registry.metadatas.append(table.metadata)
    try:
        registry.tables.update(tables_by_name(registry.metadatas))
    except TableRefused as error:
        raise HandlersRefused(str(error)) from error


def _listed(given: Any, variable: str, place: str, example: str) -> Sequence[Any]:
    try:
        return listed(given, variable, place, example)
    except ValueError as error:
        raise HandlersRefused(str(error)) from None


def _add_topics(registry: Registry, topics: Any, place: str) -> None:
    for topic in _listed(topics, "topics", place, "Topic(...)"):
        _add_topic(registry, topic, place)


def _add_topic(registry: Registry, topic: Topic, place: str) -> None:
    if not isinstance(topic, Topic):
        raise HandlersRefused(f"topics of {place} holds {topic!r:.80}, which is not a Topic(...)")
    if (flaw := topic_name_flaw(topic.name)) is not None:
        raise HandlersRefused(f"topics of {place}: {flaw}")
    if registry.topics.get(topic.name, topic) != topic:
        raise HandlersRefused(f"topic {topic.name} has two different declarations (the second in {place})")
    if (flaw := topic_flaw(topic)) is not None:
        raise HandlersRefused(f"topic {topic.name} in {place}: {flaw}")
    entity = topic.entity
    if registry.entities.get(entity.name, entity) != entity:
        raise HandlersRefused(f"entity {entity.name} has two shard counts (the second in {place})")
    if entity.shards < 1 or not entity.name or len(entity.name) > MAX_ENTITY_NAME or "." in entity.name:
        raise HandlersRefused(
            f"entity {entity.name!r} in {place}: a name has 1 to 64 characters without '.', shards ≥ 1"
        )
    registry.topics[topic.name] = topic
    registry.entities[entity.name] = entity


def _add_outgoing_topics(registry: Registry, names: Any, place: str) -> None:
    example = repr(names) if isinstance(names, str) else '"order-events"'
    for name in _listed(names, "outgoing_topics", place, example):
        flaw = topic_name_flaw(name)
        if flaw is not None:
            raise HandlersRefused(f"outgoing_topics of {place}: {flaw}")
        registry.outgoing_topics.add(name)


def _refuse_undeclared_topics(registry: Registry, entry: AnyEntry) -> None:
    if entry.topics == ():
        raise HandlersRefused(f"{entry.name}: topic= names no topic; leave it out to handle every topic")
    for name in entry.topics or ():
        if name not in registry.topics:
            raise HandlersRefused(
                f"{entry.name}: topic={name!r:.80} is declared by no module of SLUICE_HANDLERS; declared:"
                f" {', '.join(sorted(registry.topics))}"
            )


def _refuse_unhandled_topics(registry: Registry, entries: Sequence[AnyEntry], modules: Sequence[str]) -> None:
    """Refuses a topic without handlers, because all its events would become dead letters."""
    handled = set[str]().union(*(registry.topics if one.topics is None else one.topics for one in entries))
    for topic in registry.topics.values():
        if topic.name not in handled and not topic.ignores:
            raise HandlersRefused(
                f"topic {topic.name} has no handler, so all its events would become dead letters; write one"
                f" with @handles(…) in {' or '.join(modules)}, or add the module of its handler to"
                " SLUICE_HANDLERS"
            )


def _add_function(registry: Registry, function: Any, declaration: object) -> None:
    name = f"{function.__module__}.{function.__qualname__}"
    # A handler's tables are globals of its module, so they need no list.
    for thing in function.__globals__.values():
        if isinstance(thing, Table) and thing.metadata not in registry.metadatas:
            registry.metadatas.append(thing.metadata)
    if isinstance(declaration, Handles | Projects):
        refuse_unyielded(function)
    match declaration:
        case Handles(written, topic):
            types, data_type = event_types(written, name), data_type_of(function, name)
            topics = topic_names(topic)
            entry = HandlerEntry(name, types, function, data_type, topics, registry.effects, registry.tables)
            for kind in types:
                registry.handlers[kind] = _with(registry.handlers.get(kind, ()), entry)
        case Projects(written, into, revision, topic) as projecting:
            if (flaw := projects_flaw(projecting)) is not None:
                raise HandlersRefused(f"{name}: {flaw}")
            _add_projection(registry, into, revision, name)
            types, data_type = event_types(written, name), data_type_of(function, name)
            topics = topic_names(topic)
            projection = ProjectionEntry(
                name,
                types,
                function,
                data_type,
                topics,
                registry.effects,
                registry.tables,
                into,
                revision,
                registry.projection_topics,
            )
            for kind in types:
                registry.projections[kind] = _with(registry.projections.get(kind, ()), projection)
        case EffectDeclaration(name=effect) as declared:
            if (flaw := effect_flaw(declared, function)) is not None:
                raise HandlersRefused(f"effect function {name}: {flaw}")
            other = registry.effects.get(effect)
            if other is not None and other.function is not function:
                raise HandlersRefused(
                    f"effect {effect} is declared twice: {other.function.__qualname__} and {name}"
                )
            registry.effects[effect] = EffectEntry(declared, function)


def _add_projection(registry: Registry, into: Table, revision: int, name: str) -> None:
    try:
        shape = shape_of(into)
    except TableRefused as error:
        raise HandlersRefused(f"{name}: {error}") from error
    if not shape.projection:
        raise HandlersRefused(f"{name}: into={into.name}, which was not made by projection_table(...)")
    if registry.projection_tables.setdefault(into.name, into) is not into:
        raise HandlersRefused(f"two tables are called {into.name} (the second in {name})")
    if revision < FIRST_REVISION:
        raise HandlersRefused(f"{name}: revision {revision}; revisions begin at {FIRST_REVISION}")
    known = registry.revisions.setdefault(into.name, revision)
    if known != revision:
        raise HandlersRefused(
            f"{name}: revision {revision} of {into.name}, another of its handlers has {known}:"
            " all handlers of one table need the same revision"
        )


def _with(entries: tuple[E, ...], entry: E) -> tuple[E, ...]:
    if any(other.name == entry.name for other in entries):
        raise HandlersRefused(
            f"two handlers are called {entry.name}; rename one, because the ids of emitted events"
            " depend on the name"
        )
    return tuple(sorted((*entries, entry), key=lambda e: e.name))
