"""A World simulates all servers. Tests the rows and events that a test gives to a World, and the results."""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from types import ModuleType
from typing import Any

import pytest

from sluice import (
    Call,
    Effect,
    Emit,
    Entity,
    Event,
    FieldNames,
    Topic,
    handles,
)
from sluice.testing import Incoming, World
from tests.unit.testing import planted
from tests.unit.testing.planted import orders

ROW = {"status": "PLACED", "price": Decimal("0.00"), "note": None, "parent_id": None, "seen": 0}


@pytest.fixture
def world() -> World:
    return World(planted)


def module(**things: Any) -> ModuleType:
    made = ModuleType("made")
    vars(made).update(things)
    return made


def test_an_event_results_in_a_row_an_outgoing_event_and_a_call(world: World) -> None:
    assert world.send("orders", key="o-1", type="order.placed", version=3) == "applied"
    assert world.row(orders, "o-1") == ROW
    assert world.rows("orders") == {"o-1": ROW}
    assert world.row(orders, "o-2") is None
    assert world.emitted == [Emit("order-events", "o-1", "order.created", {"id": "o-1"}, version=3)]
    assert world.calls == [Call("notify", once="o-1", args={"id": "o-1"})]
    assert world.outcomes == ["applied"]
    assert world.dead_letters == []


def test_a_given_row_has_the_given_version_and_the_defaults(world: World) -> None:
    world.given(orders, "o-1", {"status": "OLD", orders.c.seen: 4}, version=3)
    assert world.send("orders", key="o-1", type="order.set", data={"status": "LATE"}, version=2) == "stale"
    assert world.row(orders, "o-1") == ROW | {"status": "OLD", "seen": 4}
    assert world.send("orders", key="o-1", type="order.set", data={"status": "NEXT"}, version=4) == "applied"
    assert world.row(orders, "o-1") == ROW | {"status": "NEXT", "seen": 4}


@pytest.mark.parametrize(
    ("table", "key", "values", "message"),
    [
        (orders, "o-1", {}, "orders.status is not nullable and has no default"),
        (orders, "o-1", {"status": "far too long"}, "orders.status: text of 12 characters"),
        (orders, "o-1", {"status": "NEW", "price": Decimal("0.001")}, "too many decimal places"),
        (orders, "o-1", {"status": "NEW", "prize": 1}, "orders has no column 'prize' to give; it has status"),
        (orders, 1, {"status": "NEW"}, "orders.order_id: int 1 is no text"),
        (
            "order",
            "o-1",
            {},
            "unknown table 'order'; the modules of this world make: orders, profiles, totals",
        ),
    ],
)
def test_a_given_row_that_postgres_cannot_store_is_refused(
    world: World, table: Any, key: Any, values: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        world.given(table, key, values)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ({"status": None}, "orders.status must not be null"),
        ({"status": "far too long"}, "orders.status: text of 12 characters, the column holds 8"),
        ({"price": "1"}, "orders.price: str '1' is no decimal"),
        ({"price": 12345}, "orders.price: decimal 12345 is too large: the column, numeric("),
        ({"colour": 1}, "there is no column 'colour'"),
    ],
)
def test_an_event_with_a_value_that_postgres_cannot_store_is_a_dead_letter(
    world: World, data: dict[str, Any], error: str
) -> None:
    assert world.send("orders", key="o-1", type="order.set", data=data, version=1) == "dead"
    [letter] = world.dead_letters
    assert error in letter.error
    assert "planted.py:" in letter.error, "the error has file and line of the yield"
    assert world.rows(orders) == {}


def test_an_upsert_without_all_columns_is_refused_when_it_is_yielded(world: World) -> None:
    assert world.send("orders", key="o-1", type="order.partial", version=1) == "dead"
    assert "Upsert of orders leaves out price, note, parent_id" in world.dead_letters[0].error


def test_a_given_row_keeps_the_tombstone_of_its_key(world: World) -> None:
    world.given(orders, "o-1", {"status": "OLD"}, version=1)
    world.send("orders", key="o-1", version=5)
    world.given(orders, "o-1", {"status": "PUT"}, version=5)
    assert world.send("orders", key="o-1", type="order.set", version=5) == "stale", (
        "the Delete at version 5 wins"
    )


def test_a_redelivery_of_all_records_changes_nothing(world: World) -> None:
    world.send("orders", key="o-1", type="order.placed", version=1)
    world.send("orders", key="o-1", version=2)
    world.send_raw("orders", "o-2", b"no JSON")
    before = world.state
    world.redeliver()
    assert world.state == before
    assert world.outcomes == ["applied", "applied", "dead", "duplicate"], (
        "a record that is delivered again from its offset has one outcome"
    )


def test_other_content_with_a_known_id_is_a_conflict(world: World) -> None:
    world.send("orders", key="o-1", type="order.set", data={"status": "A"}, version=1, id="e-1")
    assert world.send("orders", key="o-1", type="order.set", data={"status": "B"}, id="e-1") == "conflict"
    assert world.dead_letters[0].error.startswith("Conflict: event id seen before")


def test_a_null_value_is_a_tombstone(world: World) -> None:
    world.given(orders, "o-1", {"status": "NEW"}, version=1)
    assert world.send("orders", key="o-1", version=5) == "applied"
    assert world.row(orders, "o-1") is None
    assert world.send("orders", key="o-1", type="order.set", version=4) == "stale"


def test_a_raw_record_is_decoded_like_the_record_of_a_producer(world: World) -> None:
    headers = {
        "ce_specversion": "1.0",
        "ce_id": "1",
        "ce_source": "/s",
        "ce_type": "order.set",
        "ce_version": "7",
    }
    assert world.send_raw("orders", "o-1", '{"status": "CLOUD"}', headers) == "applied"
    assert world.row(orders, "o-1") == ROW | {"status": "CLOUD"}
    assert world.send_raw("orders", b"o-1", b'{"event_id": "2"}', []) == "dead"
    assert world.dead_letters[0].error == "DecodeError: type is missing"


def test_an_event_is_written_with_the_field_names_of_its_topic() -> None:
    seen: list[Event[Any]] = []

    @handles("order.set")
    def note(event: Event[Any]) -> Iterator[Effect]:
        seen.append(event)
        yield Emit("out", key=None, type="noted", data=None)

    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    fields = FieldNames(event_id="id", version="at", data="body")
    topics = (Topic("orders", Entity("order"), fields=fields),)
    world = World(module(topics=topics, note=note, outgoing_topics=("out",)))
    world.send(
        "orders", key="k", type="order.set", data={"a": 1}, version=noon, time=noon, headers={"h": "1"}
    )
    event = seen[0]
    assert (event.id, event.version, event.time, event.data) == ("event-1", noon, noon, {"a": 1})
    assert event.headers == (("h", b"1"),)


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Incoming("nothing", key="k", type="t"), "unknown topic 'nothing'; declared: orders, profiles"),
        (Incoming("orders", key="k", data={}), "a tombstone .* has no data= and no time="),
        (Incoming("orders", key="k", type="t", data={"a": object()}), "data is not JSON"),
        (Incoming("orders", key=7, type="t"), "key must be text, bytes or None, not int 7"),  # type: ignore[arg-type]
        (
            Incoming(
                "orders", key="k", type="t", version=datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
            ),
            "version must be an integer or a datetime with an offset, not datetime",
        ),
        (Incoming("orders", key="k", type="t", version="two"), "version must be an integer or a datetime"),  # type: ignore[arg-type]
        (Incoming("orders", key="k", type="t", time=5), "^time must be a datetime with an offset, not 5"),  # type: ignore[arg-type]
    ],
)
def test_an_event_that_no_producer_can_send_raises_in_the_test(
    world: World, event: Incoming, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        world.send_event(event)


def test_an_empty_key_names_an_entity(world: World) -> None:
    assert world.send("orders", key="", type="order.placed", data={"status": "far too long"}) == "dead"
    assert world.send("orders", key="", type="order.placed") == "waiting"
    assert world.send("orders", key=None, type="order.placed") == "dead", (
        "a record without a key has no entity"
    )
    assert [letter.key for letter in world.dead_letters] == ["", "", None]


def test_a_row_that_a_test_reads_is_a_copy(world: World) -> None:
    world.send("orders", key="o-1", type="order.placed")
    world.rows(orders)["o-1"]["status"] = "CHANGED"
    assert world.row(orders, "o-1") == ROW


def test_events_sent_to_a_copy_do_not_change_the_original(world: World) -> None:
    world.send("orders", key="o-1", type="order.placed")
    other = world.copy()
    other.send("orders", key="o-2", type="order.placed")
    other.send("orders", key="o-3", type="order.rejected")
    assert set(world.rows(orders)) == {"o-1"}
    assert world.outcomes == ["applied"]
    assert world.send("orders", key="o-3", type="order.placed") == "applied"


def test_a_restart_discards_values_that_handlers_keep_in_memory(world: World) -> None:
    world.given(orders, "o-1", {"status": "NEW"})
    for _ in range(2):
        world.restart()
        world.send("orders", key="o-1", type="order.remembered", version=1)
    assert world.row(orders, "o-1") == ROW | {"status": "NEW", "seen": 2}
    world.send("orders", key="o-1", type="order.remembered", version=1)
    assert world.row(orders, "o-1") == ROW | {"status": "NEW", "seen": 4}


def test_a_deployment_must_declare_the_topics_that_have_records(world: World) -> None:
    world.send("orders", key="o-1", type="order.placed")
    with pytest.raises(ValueError, match="the new modules do not declare topic 'orders', which has records"):
        world.restart(module(topics=(Topic("others", Entity("other"), ignores=("order.placed",)),)))


def test_the_rules_that_only_postgres_checks_are_listed(world: World) -> None:
    assert world.not_played == [
        "orders: CHECK (status <> '')",
        "orders: FOREIGN KEY (parent_id) to orders.order_id",
        "orders: UNIQUE (note)",
    ]


def test_an_outgoing_event_to_an_undeclared_topic_is_listed() -> None:
    @handles("order.copied")
    def copy_order(event: Event[dict[str, Any]]) -> Iterator[Effect]:
        for topic in ("orders", "declared", "undeclared"):
            yield Emit(topic, key=event.key, type="order.copied", data={})

    world = World(module(topics=planted.topics[:1], copy_order=copy_order, outgoing_topics=("declared",)))
    before = world.not_played
    world.send("orders", key="o-1", type="order.copied")
    [topic] = [line for line in world.not_played if line not in before]
    assert topic.startswith("Emit to topic undeclared: no module declares it in outgoing_topics")


def test_a_handler_that_ended_at_a_write_without_effect_is_listed(world: World) -> None:
    for version in (1, 2):
        world.send("orders", key="o-1", type="order.set", version=version)
    assert world.ended_early == [], "each write had an effect"
    copied = world.copy()
    world.send("orders", key="o-1", type="order.set", version=1)
    world.send("profiles", key="p-1", type="profile.changed", data={"name": "A"}, version=1)
    world.send("profiles", key="p-1", type="profile.changed", data={"name": "A"}, version=1, id="again")
    assert [line.partition(" ended at ")[2] for line in world.ended_early] == [
        "effect 1, Upsert of orders 'o-1': stale",
        "effect 1, Merge of profiles 'p-1': duplicate",
    ]
    assert copied.ended_early == []
