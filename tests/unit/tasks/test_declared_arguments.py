"""If an argument of a declaration has a wrong type, collecting fails, and the error names the right type."""

from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, String

from sluice import Effect, Entity, Event, FieldNames, Topic, effect, handles, projection_table, projects
from sluice.tasks.fold.registry import HandlersRefused, collect_modules
from sluice.testing import World

view = projection_table("view", MetaData(), Column("id", String, primary_key=True))


def module(**things: Any) -> ModuleType:
    made = ModuleType("made_up")
    topics = (Topic("things", entity=Entity("thing"), ignores=("a",)),)
    vars(made).update({"topics": topics, **things})
    return made


def with_topic(*given: Any, **options: Any) -> ModuleType:
    kept = {"entity": Entity("thing"), "ignores": ("a",)}
    return module(topics=(Topic("things", *given, **{**kept, **options}),))


def with_effect(**options: Any) -> ModuleType:
    return module(made=effect(**{"name": "notify", "on_unknown": "ask", **options})(lambda call: None))


def plain(event: Event[Any]) -> Iterator[Any]:
    yield from ()


async def of_async(event: Event[Any]) -> AsyncIterator[Effect]:
    for one in list[Effect]():
        yield one


async def of_coroutine(event: Event[Any]) -> None:
    """An async function without a yield."""


async def call_async(call: Any) -> None:
    """An effect function that nothing would await."""


def call_lazily(call: Any) -> Iterator[None]:
    yield None


class Callee:
    """A declaration of this class is not a function."""

    def __call__(self, event: Any) -> None:
        """Does nothing."""


REFUSED: list[tuple[str, Callable[[], ModuleType], str]] = [
    ("topics without a comma", lambda: module(topics=Topic("t", entity=Entity("e"))),
     r"^topics of made_up must be a tuple, not one Topic; write topics = \(Topic\(...\),\)$"),
    ("topics as a text", lambda: module(topics="orders"),
     "topics of made_up must be a tuple, not str 'orders'"),
    ("topics as None", lambda: module(topics=None), "topics of made_up must be a tuple, not None"),
    ("outgoing topics as a number", lambda: module(outgoing_topics=7),
     r"outgoing_topics of made_up must be a tuple, not int 7; write outgoing_topics = \(\"order-events\",\)"),
    ("a Topic as an outgoing topic", lambda: module(outgoing_topics=Topic("t", entity=Entity("e"))),
     "outgoing_topics of made_up must be a tuple, not one Topic;"),
    ("an entity as a text", lambda: with_topic(entity="thing"),
     r'topic things in made_up: entity= must be an Entity, as in Entity\("order"\), not str \'thing\''),
    ("ignores without a comma", lambda: with_topic(ignores="a.b"),
     r'ignores= must be a tuple of event types, as in \("order.read",\), not str \'a.b\''),
    ("ignores of numbers", lambda: with_topic(ignores=(1,)), r"ignores= must be .* not tuple \(1,\)"),
    ("a start that is unknown", lambda: with_topic(start="first"), 'start= must be "earliest" or "latest"'),
    ("an on_failure that is unknown", lambda: with_topic(on_failure="Skip"),
     'on_failure= must be "park" or'),
    ("a dedup that is a list", lambda: with_topic(dedup=["id"]),
     r"dedup= must be \"id\" .* not list \['id'\]"),
    ("fields as a dict", lambda: with_topic(fields={"type": "kind"}), "fields= must be a FieldNames"),
    ("a field that is a number", lambda: with_topic(fields=FieldNames(type=1)),  # type: ignore[arg-type]
     "type= must be a string, not int"),
    ("a tombstone type that is a number", lambda: with_topic(tombstone_type=5),
     "tombstone_type= must be a string"),
    ("a size as a text", lambda: with_topic(max_bytes="1"),
     "max_bytes= must be a positive number of bytes"),
    ("a size of 0", lambda: with_topic(max_bytes=0), "max_bytes= must be a positive number of bytes"),
    ("shards as a text", lambda: with_topic(entity=Entity("thing", "4")),  # type: ignore[arg-type]
     "topic things in made_up: shards= must be an integer, not str '4'"),
    ("an entity named by a number", lambda: with_topic(entity=Entity(4)),  # type: ignore[arg-type]
     "name= must be a string, not int 4"),
    ("event types in a list", lambda: module(made=handles(["a", "b"])(plain)),  # type: ignore[arg-type]
     r"is not an event type; name the types as texts, as in \(\"order.placed\", \"order.paid\"\)"),
    ("an async handler", lambda: module(made=handles("a")(of_async)),  # type: ignore[type-var]
     "of_async is async; a handler is a plain generator: write `def`"),
    ("a coroutine as handler", lambda: module(made=handles("a")(of_coroutine)),  # type: ignore[type-var]
     "of_coroutine is async"),
    ("a handler that is an object", lambda: module(made=handles("a")(Callee())),  # type: ignore[type-var]
     "made_up: <.*Callee.*> is declared as a handler or an effect and is not a function"),
    ("into as a text", lambda: module(made=projects("a", into="view", revision=1)(plain)),  # type: ignore[arg-type]
     r"plain: into= must be a table made by projection_table\(...\), not str 'view'"),
    ("a revision as a text", lambda: module(made=projects("a", into=view, revision="1")(plain)),  # type: ignore[arg-type]
     "plain: revision= must be an integer, not str '1'"),
    ("an on_unknown that is unknown", lambda: with_effect(on_unknown="fail"),
     '<lambda>: on_unknown= must be "retry" or "ask", not str \'fail\''),
    ("a timeout as a text", lambda: with_effect(timeout_seconds="5"),
     "timeout= must be a positive number of s"),
    ("no attempts", lambda: with_effect(attempts=0), "attempts= must be a positive integer, not int 0"),
    ("a key lifetime of no time", lambda: with_effect(key_lifetime=0),
     "key_lifetime= must be a positive number"),
    ("holds as a text", lambda: with_effect(holds="no"), "holds= must be True or False, not str 'no'"),
    ("reconcile by name", lambda: with_effect(reconcile="ask"), "reconcile= must be a function or None"),
    ("an async effect", lambda: module(made=effect("n", on_unknown="ask")(call_async)),  # type: ignore[type-var]
     "effect function .*call_async: it is async; an effect function is a plain function"),
    ("an effect that yields", lambda: module(made=effect("n", on_unknown="ask")(call_lazily)),  # type: ignore[type-var]
     "call_lazily: it contains yield, so a call of the function would do nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "text"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_wrong_argument_is_refused_and_the_right_one_named(
    make: Callable[[], ModuleType], text: str
) -> None:
    try:
        with pytest.raises(HandlersRefused, match=text):
            collect_modules([make()])
    finally:
        for function in (plain, of_async, of_coroutine, call_async, call_lazily):
            vars(function).pop("__sluice__", None)


def test_handles_without_event_types_fails_where_it_is_written() -> None:
    with pytest.raises(TypeError, match=r'@handles needs the event types, as in @handles\("order.placed"\)'):
        handles(plain)  # type: ignore[arg-type]


def test_valid_arguments_are_accepted() -> None:
    World(
        with_topic(
            ignores=["a"],
            start="latest",
            on_failure="skip",
            dedup="position",
            fields=FieldNames(type="kind"),
            tombstone_type="gone",
            max_bytes=5,
        )
    )
    World(with_effect(timeout_seconds=0.5, attempts=1, key_lifetime=60, holds=True, reconcile=print))
