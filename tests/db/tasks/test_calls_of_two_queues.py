"""Two queues add the same call at the same time. One row is stored, and the later transaction is retried."""

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from sluice.db.connection import BATCH_PLANS, Session
from sluice.tasks.api import Call, Effect, Entity, Event, Insert, Topic, handles
from sluice.tasks.apply.apply import Applier
from sluice.tasks.apply.batch_message import Slice
from sluice.tasks.apply.fold_io import FoldIO
from sluice.tasks.fold.registry import Registry, collect_modules
from tests.db.tasks import applying
from tests.db.tasks.applying import QUEUE, TOPIC, Bench, made, slice_of, things

OTHER_TOPIC, OTHER_QUEUE = "others", "other.0"


@handles("thing.paid")
def pay_thing(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Yields a row and a call. The events of all queues use the same key for the call."""
    yield Insert(things, event.key, {"amount": 1, "name": event.key})
    yield Call("notify", once="shared", args={"amount": event.data["amount"]})


def registry() -> Registry:
    module = ModuleType("paying")
    topics = (Topic(TOPIC, entity=Entity("thing", 1)), Topic(OTHER_TOPIC, entity=Entity("other", 1)))
    vars(module).update(pay_thing=pay_thing, notify=applying.notify, things=things, topics=topics)
    return collect_modules([module])


@pytest.fixture
def bench(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # These tests interfere between two steps of the exact fold.
    monkeypatch.setenv("SLUICE_OPTIMISTIC", "never")
    applying.create_tables(database_url)
    bench = Bench(database_url, registry())
    bench.look("INSERT INTO sluice.entities (entity, shards) VALUES ('other', 1)")
    bench.look(f"INSERT INTO sluice.topics VALUES ('{OTHER_TOPIC}', 'id-of-others', 'other')")
    bench.look(f"INSERT INTO sluice.queues (queue, entity) VALUES ('{OTHER_QUEUE}', 'other')")
    yield bench
    bench.close()


@pytest.mark.parametrize(("amount", "conflicts"), [(1, 0), (2, 1)], ids=["same args", "other args"])
def test_a_concurrent_call_of_another_queue_retries_the_transaction(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, amount: int, conflicts: int
) -> None:
    """No second call is stored. If the args differ, a conflict is counted."""
    other = Session(bench.database_url, application_name="test other queue", plans=BATCH_PLANS)
    write_back = FoldIO.write_back
    others = iter([True])

    def write_after_the_other_queue(store: FoldIO, *args: object) -> None:
        if next(others, False):
            record = made(0, "thing.paid", "of-the-other-queue", amount=1)
            Applier(other, bench.registry).apply(
                OTHER_QUEUE, [Slice(OTHER_TOPIC, "id-of-others", 0, 1, -1, [record])]
            )
        write_back(store, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(FoldIO, "write_back", write_after_the_other_queue)
    bench.applier.apply(QUEUE, [slice_of([made(0, "thing.paid", amount=amount)])])
    other.close()
    assert bench.look("SELECT entity, args FROM sluice.executed_side_effects") == [("other", {"amount": 1})]
    assert bench.amounts() == {"k": 1, "of-the-other-queue": 1}
    counted = bench.look(f"SELECT applied, call_conflict FROM sluice.lane_offsets WHERE queue = '{QUEUE}'")
    assert counted == [(1, conflicts)]
