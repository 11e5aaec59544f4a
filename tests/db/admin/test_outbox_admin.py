"""Operator commands that read and change the outbox, on real Postgres, while a relay runs."""

from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest

from sluice.admin import outbox
from sluice.admin.decisions import OperationRefused
from sluice.admin.outbox import drop_all, drop_event, require_event, retry_all, retry_one
from sluice.db.admin import outbox_admin
from sluice.db.admin.audit import Decision
from sluice.db.admin.outbox_admin import (
    QueueWaiting,
    RefusalReason,
    count_refusal_reasons,
    count_refused,
    delete_outgoing_event,
    delete_refusals,
    lock_relay,
    read_outgoing_event,
    read_refused,
    read_waiting,
)
from sluice.db.connection import SESSION_SETTINGS, Session
from sluice.db.sending.relay import lock_waiting, read_page, read_sent_through
from sluice.tasks.outbox.relay import FLUSH_SECONDS
from tests.db.admin.leaving import insert_event, rows
from tests.waiting import WAITING_BACKENDS, wait_until

DECISION = Decision("ann@host", "outbox drop", "because")


@pytest.fixture
def session(make_session: Callable[[], Session]) -> Session:
    session = make_session()
    session.command("INSERT INTO sluice.entities (entity, shards) VALUES ('order', 2)")
    session.command(
        "INSERT INTO sluice.queues (queue, entity) VALUES ('order.0', 'order'), ('order.1', 'order')"
    )
    return session


def page(session: Session) -> list[tuple[str, int]]:
    """Returns the events that a relay would read now."""
    with session.transaction():
        hints = read_sent_through(session)
        locked = lock_waiting(session, hints)
        found = read_page(
            session, {queue: hints[queue] for queue in locked}, without_topics=[], limit=100, newest_format=1
        )
    return [(row.queue, row.id) for row in found]


def audits(session: Session) -> list[tuple[Any, ...]]:
    return rows(session, "SELECT actor, verb, subject, reason, details FROM sluice.audit ORDER BY id")


def test_waiting_events_are_counted_per_queue_and_behind_each_refused_event(session: Session) -> None:
    insert_event(session, 1, refused="too large")
    insert_event(session, 2)
    insert_event(session, 3, key="other")
    # Event 1 is in another queue, so it does not hold back event 4.
    insert_event(session, 4, queue="order.1")
    insert_event(session, 5, queue="order.1", topic="more", key=None, refused="bad")
    insert_event(session, 6, queue="order.1", topic="more", key=None)
    waiting = [one._replace(oldest_seconds=0.0) for one in read_waiting(session, None)]
    assert waiting == [QueueWaiting("order.0", 3, 1, 0.0), QueueWaiting("order.1", 3, 1, 0.0)]
    assert [one.waiting for one in read_waiting(session, "more")] == [2]
    refused = read_refused(session, None, limit=10)
    assert [(one.queue, one.id, one.key, one.error, one.behind) for one in refused] == [
        ("order.1", 5, None, "bad", 0),
        ("order.0", 1, "k", "too large", 1),
    ], "newest first"
    assert [one.id for one in read_refused(session, "more", limit=10)] == [5]
    assert len(read_refused(session, None, limit=1)) == 1
    assert count_refusal_reasons(session, None, limit=9) == []
    insert_event(session, 7, refused="bad")
    insert_event(session, 8, refused="bad")
    assert count_refusal_reasons(session, None, limit=9) == [RefusalReason(2, "out", "bad")]
    assert count_refusal_reasons(session, "more", limit=9) == []
    # The relay reads only the events that no refused event holds back.
    assert page(session) == [("order.0", 3), ("order.1", 4), ("order.1", 6)]


def test_an_event_is_shown_with_the_event_that_holds_it_back(session: Session) -> None:
    insert_event(session, 1, refused="too large")
    insert_event(session, 2)
    event = read_outgoing_event(session, "order.0", 2)
    assert event is not None
    assert (event.error, event.held_by, event.headers, bytes(event.payload)) == (
        None,
        1,
        {"a": "1"},
        b"{}",
    )
    first = read_outgoing_event(session, "order.0", 1)
    assert first is not None
    assert (first.error, first.held_by) == ("too large", None)
    insert_event(session, 4, queue="order.1")
    assert require_event(session, "order.1", 4).held_by is None
    assert read_outgoing_event(session, "order.0", 9) is None


def test_a_refused_event_is_retried_with_the_events_behind_it(session: Session) -> None:
    insert_event(session, 1, refused="too large")
    insert_event(session, 2)
    tried = DECISION._replace(verb="outbox retry")
    assert [one.id for one in retry_one(session, "order.0", 1, tried, dry_run=True)] == [1]
    assert page(session) == []
    assert [one.id for one in retry_one(session, "order.0", 1, tried, dry_run=False)] == [1]
    assert page(session) == [("order.0", 1), ("order.0", 2)]
    details = {"queue": "order.0", "id": 1, "topic": "out", "key": "k", "error": "too large"}
    assert audits(session) == [("ann@host", "outbox retry", "order.0/1", "because", details)]
    with pytest.raises(OperationRefused, match=r"is not refused: it will be sent$"):
        retry_one(session, "order.0", 1, tried, dry_run=False)
    assert len(audits(session)) == 1


def test_an_event_behind_a_refused_event_cannot_be_retried(session: Session) -> None:
    insert_event(session, 1, refused="too large")
    insert_event(session, 2)
    for dry_run in (True, False):
        with pytest.raises(
            OperationRefused, match=r"sent as soon as order\.0 1, which has the same key, is sent or dropped"
        ):
            retry_one(session, "order.0", 2, DECISION, dry_run=dry_run)


def test_all_refused_events_of_a_topic_are_retried(session: Session) -> None:
    for number, topic in ((1, "out"), (2, "more"), (3, "out")):
        insert_event(session, number, topic=topic, key=f"k{number}", refused="bad")
    assert [one.id for one in retry_all(session, "out", DECISION, dry_run=True)] == [1, 3]
    assert [one.id for one in retry_all(session, "out", DECISION, dry_run=False)] == [1, 3]
    assert [one.id for one in read_refused(session, None, limit=10)] == [2]
    until = count_refused(session, None).until
    insert_event(session, 4, key="k4", refused="after that time")
    assert [one.id for one in delete_refusals(session, None, until, limit=10)] == [2]
    assert [subject for _, _, subject, _, _ in audits(session)] == ["order.0/1", "order.0/3"]


def test_refused_events_are_retried_page_by_page_and_a_key_stays_in_order(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "PAGE_ROWS", 2)
    for number in range(1, 6):
        insert_event(session, number, refused="held")
    until = count_refused(session, None).until
    delete_refusals(session, None, until, limit=2)
    assert page(session) == [], "events of the key wait for its last refused event"
    assert [one.id for one in retry_all(session, None, DECISION, dry_run=False)] == [3, 4, 5]
    assert page(session) == [("order.0", number) for number in range(1, 6)]


def test_all_refused_events_are_dropped_and_waiting_events_stay(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "DROP_ROWS", 2)
    for number in range(1, 5):
        insert_event(session, number, key=f"k{number}", payload=b"\x00", refused="held")
    insert_event(session, 5, queue="order.1", topic="more", refused="held")
    insert_event(session, 6)
    assert drop_all(session, "out", DECISION) == 4
    assert drop_all(session, "out", DECISION) == 0
    assert [one.id for one in read_refused(session, None, limit=10)] == [5]
    assert page(session) == [("order.0", 6)]
    assert [subject for _, _, subject, _, _ in audits(session)] == [f"order.0/{n}" for n in range(1, 5)]


def test_dropping_a_refused_event_releases_the_events_behind_it(session: Session) -> None:
    insert_event(session, 1, refused="too large", payload=b"\x00\xff")
    insert_event(session, 2)
    drop_event(session, require_event(session, "order.0", 1), DECISION, even_if_waiting=False)
    assert page(session) == [("order.0", 2)]
    assert rows(session, "SELECT count(*) FROM sluice.outbox_refusals") == [(0,)]
    [(_, verb, subject, _, details)] = audits(session)
    assert (verb, subject, details["payload_base64"], details["error"]) == (
        "outbox drop",
        "order.0/1",
        "AP8=",
        "too large",
    )


def test_a_waiting_event_is_dropped_only_with_even_if_waiting(session: Session) -> None:
    insert_event(session, 1)
    event = require_event(session, "order.0", 1)
    with pytest.raises(OperationRefused, match="meanwhile"):
        drop_event(session, event, DECISION, even_if_waiting=False)
    assert page(session) == [("order.0", 1)]
    assert audits(session) == []
    drop_event(session, event, DECISION, even_if_waiting=True)
    assert page(session) == []


def test_a_refused_event_that_was_retried_meanwhile_is_not_dropped(session: Session) -> None:
    insert_event(session, 1, refused="too large")
    event = require_event(session, "order.0", 1)
    retry_one(session, "order.0", 1, DECISION, dry_run=False)
    with pytest.raises(OperationRefused, match="meanwhile"):
        drop_event(session, event, DECISION, even_if_waiting=False)
    assert page(session) == [("order.0", 1)]


def test_a_drop_waits_for_the_relay_that_holds_the_queue(
    session: Session, make_session: Callable[[], Session]
) -> None:
    insert_event(session, 1)
    relay, operator = make_session(), make_session()
    dropped: list[bool] = []

    def drop() -> None:
        with operator.transaction():
            lock_relay(operator, "order.0")
            dropped.append(delete_outgoing_event(operator, "order.0", 1, even_if_waiting=True))

    with relay.transaction():
        assert lock_waiting(relay, {"order.0": 0}) == {"order.0": None}
        thread = Thread(target=drop)
        thread.start()
        wait_until(
            lambda: len(rows(session, WAITING_BACKENDS)) == 1,
            timeout_seconds=5,
            what="the drop waits",
        )
        # The broker has acknowledged the record. The relay now deletes the row of the record.
        relay.command("DELETE FROM sluice.outbox_events WHERE id = 1")
    thread.join()
    assert dropped == [False]


def test_a_drop_waits_longer_than_a_relay_holds_its_lock(session: Session) -> None:
    with session.transaction():
        lock_relay(session, "order.0")
        [(lock,)] = rows(session, "SELECT extract(epoch FROM current_setting('lock_timeout')::interval)")
        [(whole,)] = rows(
            session, "SELECT extract(epoch FROM current_setting('statement_timeout')::interval)"
        )
    assert min(lock, whole) > FLUSH_SECONDS
    assert rows(session, "SHOW lock_timeout") == [(SESSION_SETTINGS["lock_timeout"],)]


def test_a_drop_is_refused_after_its_lock_timeout(
    session: Session, make_session: Callable[[], Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_admin, "RELAY_PATIENCE", "SET LOCAL lock_timeout = '50ms'")
    insert_event(session, 1, refused="bad")
    relay = make_session()
    event = require_event(session, "order.0", 1)
    with relay.transaction():
        lock_relay(relay, "order.0")
        with pytest.raises(OperationRefused, match=r"has locked queue order\.0 for too long"):
            drop_event(session, event, DECISION, even_if_waiting=False)
    drop_event(session, event, DECISION, even_if_waiting=False)


def test_no_relay_takes_the_queue_during_a_drop(
    session: Session, make_session: Callable[[], Session]
) -> None:
    insert_event(session, 1)
    relay = make_session()
    with session.transaction():
        lock_relay(session, "order.0")
        with relay.transaction():
            assert lock_waiting(relay, {"order.0": 0}) == {}
