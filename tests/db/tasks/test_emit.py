"""Events of a user's transaction are committed with its rows. No event is skipped if it commits late."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, Engine, MetaData, Table, Text, select

from sluice.db.connection import QUEUE_PLANS, Session
from sluice.db.sending.relay import lock_waiting, read_page, read_sent_through
from sluice.stack.patience import patient
from sluice.tasks.api import Emit, Rejected
from sluice.tasks.fold.emitting import MAX_EMIT_BYTES
from sluice.tasks.outbox.emit import QUEUES_PER_STREAM, emit, queue_of
from sluice.tasks.outbox.outbox_page import sent_through
from tests.harness.raw_sql import make_engine
from tests.waiting import wait_until

metadata = MetaData()
web_orders = Table(
    "web_orders", metadata, Column("order_id", Text, primary_key=True), Column("total_cents", BigInteger)
)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = make_engine(database_url)
    metadata.create_all(made)
    yield made
    made.dispose()


@pytest.fixture
def relay_session(database_url: str) -> Iterator[Session]:
    session = Session(database_url, application_name="test relay", plans=QUEUE_PLANS)
    yield session
    session.close()


def created(order_id: str, total: int = 1) -> Emit:
    return Emit("order-events", key=order_id, type="order.created", data={"total": total})


def place(engine: Engine, order_id: str, *, fails: bool = False) -> None:
    """Stores an order and emits its event, as a web application does."""
    with engine.begin() as connection:
        connection.execute(web_orders.insert().values(order_id=order_id, total_cents=1))
        emit(connection, [created(order_id)])
        if fails:
            raise RuntimeError("the request failed")


def waiting(session: Session) -> list[tuple[str | None, str]]:
    with session.transaction():
        hints = read_sent_through(session)
        lock_waiting(session, hints)
        rows = read_page(session, hints, without_topics=[], limit=100, newest_format=1)
    return [(row.key, bytes(row.payload).decode()) for row in rows]


def test_row_and_event_are_committed_together(engine: Engine, relay_session: Session) -> None:
    place(engine, "order-1")
    assert waiting(relay_session) == [("order-1", '{"total":1}')]


def test_a_rollback_leaves_neither_row_nor_event(engine: Engine, relay_session: Session) -> None:
    with pytest.raises(RuntimeError, match="the request failed"):
        place(engine, "order-1", fails=True)
    assert waiting(relay_session) == []
    with engine.connect() as connection:
        assert connection.execute(select(web_orders)).all() == []


def test_events_of_one_call_keep_their_order(engine: Engine, relay_session: Session) -> None:
    with engine.begin() as connection:
        ids = emit(connection, [created("k", n) for n in range(5)])
    assert waiting(relay_session) == [("k", f'{{"total":{n}}}') for n in range(5)]
    assert len(set(ids)) == 5


def test_a_later_event_is_not_visible_before_an_earlier_event_is_committed(
    engine: Engine, relay_session: Session
) -> None:
    early = engine.connect()
    begun = early.begin()
    emit(early, [created("k", 1)])
    late = threading.Thread(target=lambda: _emit_in_own_transaction(engine, created("k", 2)))
    late.start()
    wait_until(lambda: _waits_for_a_lock(engine), timeout_seconds=10, what="the later transaction waits")
    # Without the lock, the relay would send the later event now and never read the earlier event.
    assert waiting(relay_session) == []
    begun.commit()
    early.close()
    late.join(patient(30))
    assert waiting(relay_session) == [("k", '{"total":1}'), ("k", '{"total":2}')]


def test_transactions_of_other_keys_do_not_wait(engine: Engine) -> None:
    others = [f"k{n}" for n in range(100) if queue_of("app", f"k{n}") != queue_of("app", "k")]
    with engine.begin() as first:
        emit(first, [created("k")])
        _emit_in_own_transaction(engine, created(others[0]))


def test_concurrent_transactions_with_many_events_do_not_deadlock(
    engine: Engine, relay_session: Session
) -> None:
    keys = [f"k{n}" for n in range(40)]

    def work(order: list[str]) -> None:
        for _ in range(10):
            with engine.begin() as connection:
                emit(connection, [created(key) for key in order])

    threads = [threading.Thread(target=work, args=(order,)) for order in (keys, keys[::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patient(60))
    with relay_session.transaction():
        hints = read_sent_through(relay_session)
        lock_waiting(relay_session, hints)
        rows = read_page(relay_session, hints, without_topics=[], limit=1000, newest_format=1)
    assert len(rows) == 2 * 10 * len(keys)
    assert len({row.queue for row in rows}) <= QUEUES_PER_STREAM
    for queue in {row.queue for row in rows}:
        of = [row for row in rows if row.queue == queue]
        ids = [row.id for row in of]
        assert sent_through(0, ids, ids, None) == ids[-1]


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (Emit("t", "k", "x", "x" * MAX_EMIT_BYTES), "Emit to t: data has 1000002 bytes"),
        (Emit("", "k", "x", 1), "no topic named ''"),
        (Emit("a topic", "k", "x", 1), "no topic named 'a topic'"),
        (Emit("..", "k", "x", 1), "no topic named"),
        (Emit("t" * 250, "k", "x", 1), "no topic named"),
        (Emit("t", "k", "", 1), "type is empty"),
        (Emit("t", "k\0", "x", 1), "holds NUL"),
        (Emit("t", "k" * 300, "x", 1), "key has 300 characters"),
        (Emit("t", "k", "x", object()), "is not a JSON"),
        (Emit("t", "k", "x", 1, headers={"ce_id": "1"}), "names that begin with 'ce_'"),
        ("an event", "str 'an event' is not an Emit"),
    ],
)
def test_an_event_that_cannot_be_sent_is_refused(engine: Engine, event: Any, text: str) -> None:
    with engine.connect() as connection, pytest.raises(Rejected, match=text):
        emit(connection, [event])


def _emit_in_own_transaction(engine: Engine, event: Emit) -> None:
    with engine.begin() as connection:
        emit(connection, [event])


def _waits_for_a_lock(engine: Engine) -> bool:
    query = """
        SELECT count(*) FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND datname = current_database()
    """
    with engine.connect() as connection:
        return bool(connection.exec_driver_sql(query).scalar_one())
