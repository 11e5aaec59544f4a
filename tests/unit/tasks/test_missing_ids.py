"""Events without id: their identity, the declarations under which they fail, and the error."""

from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Column, MetaData, String

from sluice.db.tables import entity_table, projection_table
from sluice.tasks.api import Effect, Event, FieldNames, ProjectionEffect, Topic, Upsert, handles, projects
from sluice.tasks.events.decode import former_identity
from sluice.tasks.events.identity import event_identity
from sluice.tasks.fold.plan import plan_event, plan_projection
from sluice.tasks.fold.registry import HandlersRefused, Registry, collect_modules
from tests.unit.tasks.records import CLOUD, COORDINATES, STRUCTURED, TOPIC, Headers, body, cloud, plain, read

BY_POSITION = replace(TOPIC, dedup="position")
balances = entity_table("balances", MetaData(), Column("id", String, primary_key=True))
view = projection_table("view", MetaData(), Column("id", String, primary_key=True))


@handles("balance.set")
def set_balance(event: Event[Any]) -> Iterator[Effect]:
    yield Upsert(balances, event.key, {})


@projects("balance.set", into=view, revision=1)
def project_balance(event: Event[Any]) -> Iterator[ProjectionEffect]:
    yield Upsert(view, event.key, {})


def registry(topic: Topic) -> Registry:
    module = ModuleType("ids")
    vars(module).update(topics=(topic,), set_balance=set_balance, project_balance=project_balance)
    return collect_modules([module])


NO_ID: dict[str, tuple[bytes, Headers]] = {
    "plain, omitted": (plain(event_id=None), []),
    "plain, null": (b'{"event_id":null,"type":"balance.set","version":7,"data":{"a":1}}', []),
    "plain, empty": (plain(event_id=""), []),
    "plain, in another field": (plain(event_id=None, id="e1"), []),
    "plain, only a header": (plain(event_id=None), [("ce_id", b"e1")]),
    "binary, omitted": (b"{}", [CLOUD[0], *CLOUD[2:]]),
    "binary, null": (b"{}", cloud(id=None)),
    "binary, empty": (b"{}", cloud(id=b"")),
    "structured, null": (body(id=None), STRUCTURED),
    "structured, empty": (body(id=""), STRUCTURED),
}
UNUSABLE: dict[str, tuple[bytes, Headers]] = {
    "plain, a number": (plain(event_id=17), []),
    "plain, too long": (plain(event_id="x" * 256), []),
    "binary, not UTF-8": (b"{}", cloud(id=b"\xff")),
    "structured, a list": (body(id=["e1"]), STRUCTURED),
}


@pytest.mark.parametrize(("value", "headers"), NO_ID.values(), ids=NO_ID)
def test_an_event_without_id_is_a_dead_letter_unless_dedup_is_position(
    value: bytes, headers: Headers
) -> None:
    decoded = read(value, headers)
    assert (decoded.error, decoded.lacks_id, decoded.identity) == (None, True, COORDINATES)
    planned = plan_event(registry(TOPIC), TOPIC, decoded)
    assert planned.error is not None
    assert (planned.error.error_class, planned.runs, planned.parks) == ("EventIdMissing", (), True)
    decoded = read(value, headers, topic=BY_POSITION)
    assert (decoded.error, decoded.lacks_id, decoded.identity) == (None, True, COORDINATES)
    planned = plan_event(registry(BY_POSITION), BY_POSITION, decoded)
    assert (planned.error, len(planned.runs)) == (None, 2)


@pytest.mark.parametrize(("value", "headers"), UNUSABLE.values(), ids=UNUSABLE)
def test_an_invalid_id_is_refused_unless_dedup_is_position(value: bytes, headers: Headers) -> None:
    assert read(value, headers).error is not None
    decoded = read(value, headers, topic=BY_POSITION)
    assert (decoded.error, decoded.event_id, decoded.identity) == (None, None, COORDINATES)


@pytest.mark.parametrize(
    ("value", "headers"),
    [(plain(), []), (b"{}", CLOUD), (body(), STRUCTURED), (None, CLOUD)],
    ids=["plain", "binary", "structured", "tombstone"],
)
def test_an_id_is_kept_but_not_used_if_dedup_is_position(value: bytes | None, headers: Headers) -> None:
    known = read(value, headers)
    assert known.identity != COORDINATES
    decoded = read(value, headers, topic=BY_POSITION)
    assert decoded.event is not None
    assert (decoded.event.id, decoded.event_id, decoded.lacks_id) == ("e1", "e1", False)
    assert decoded.identity == COORDINATES
    # The identity under the other declaration, for a topic whose declaration changes.
    assert former_identity(decoded) == known.identity
    assert former_identity(known) == COORDINATES


@pytest.mark.parametrize("topic", [TOPIC, BY_POSITION], ids=["id", "position"])
@pytest.mark.parametrize("headers", [[], [("ce_id", b"")], [("ce_version", b"9")]])
def test_a_tombstone_needs_no_id(topic: Topic, headers: Headers) -> None:
    topic = replace(topic, tombstone_type="balance.set")
    decoded = read(None, headers, topic=topic)
    assert (decoded.error, decoded.lacks_id, decoded.identity) == (None, False, COORDINATES)
    assert plan_event(registry(topic), topic, decoded).error is None
    assert former_identity(decoded) is None


def test_the_error_names_both_ways_to_correct_the_topic() -> None:
    topic = replace(TOPIC, fields=FieldNames(event_id="uuid", type="kind"))
    decoded = read(b'{"kind":"balance.set"}', topic=topic)
    fault = plan_event(registry(topic), topic, decoded).error
    assert fault is not None
    assert "'uuid' in plain JSON, the header ce_id or the field id of CloudEvents" in fault.text
    assert """Topic('balances', dedup="position")""" in fault.text


def test_an_event_without_a_handler_needs_no_id() -> None:
    unheard = read(plain(event_id=None, type="balance.viewed"))
    ignoring = replace(TOPIC, ignores=("balance.viewed",))
    assert plan_event(registry(ignoring), ignoring, unheard).ignored
    planned = plan_event(registry(TOPIC), TOPIC, unheard)
    assert planned.error is not None
    assert planned.error.error_class == "NoHandler"


def test_a_rebuild_applies_an_event_without_id() -> None:
    planned = plan_projection(registry(TOPIC), view, read(plain(event_id=None)))
    assert (planned.error, len(planned.runs)) == (None, 1)


def test_the_identity_under_the_other_declaration_contains_the_key() -> None:
    decoded = read(plain(), key=b"other", topic=BY_POSITION)
    assert former_identity(decoded) == event_identity("balances", None, b"other", "e1")
    assert former_identity(read(b"{", topic=BY_POSITION)) is None


@pytest.mark.parametrize("dedup", ["offset", "", "ID", None, True])
def test_an_unknown_dedup_is_refused_at_start(dedup: Any) -> None:
    with pytest.raises(
        HandlersRefused,
        match=r'topic balances in ids: dedup= must be "id" .*, "position" .* or "natural" .*, not',
    ):
        registry(replace(TOPIC, dedup=dedup))
