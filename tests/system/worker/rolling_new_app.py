"""The code after a deployment. It adds topics, an entity type, an effect and shards to `rolling_old_app`."""

from collections.abc import Iterator

from sluice import Call, Effect, EffectCall, Entity, Event, Topic, Upsert, effect, handles
from tests.system.worker.rolling_old_app import Thing, count_thing, rolling_things

__all__ = ["count_thing", "greet", "rolling_things", "tell_news", "topics"]

_things = Entity("thing", shards=4)
topics = (
    Topic("rolling-things", entity=_things),
    Topic("rolling-news", entity=_things),
    Topic("rolling-others", entity=Entity("other", shards=2)),
)


@handles("news.told")
def tell_news(event: Event[Thing]) -> Iterator[Effect]:
    """Yields a row with the version of the event, and a call."""
    yield Upsert(rolling_things, event.key, {"amount": event.data.amount})
    yield Call("greet", args={"amount": event.data.amount})


@effect("greet", on_unknown="ask")
def greet(call: EffectCall) -> dict[str, int]:
    """Succeeds immediately."""
    return {"attempt": call.attempt}
