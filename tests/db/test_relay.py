"""The relay on a real Postgres, with a broker that does what it is told."""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
import structlog

from db.arrays import bare_array, text_array
from db.relay import DELETE_SENT, LOCK_WAITING, READ_PAGE
from db.session import QUEUE_PLANS, Session, Statement
from tasks.faults import FaultInjected, faults
from tasks.outgoing import OutgoingRecord
from tasks.page import Delivery
from tasks.producer import Delivered
from tasks.relay import FLUSH_SECONDS, HINT_SECONDS, MAX_AWAY_SECONDS, Relay, Relayed
from tests.db.test_plans import RecordingSession

Answer = tuple[Delivery, str] | None
ACKNOWLEDGED: Answer = (Delivery.ACKNOWLEDGED, "")
REFUSED: Answer = (Delivery.REFUSED, "too large")
AWAY: Answer = (Delivery.AWAY, "no leader")


class Broker:
    """A producer and its broker: `answer` says what becomes of a record, given whether it is alone."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[tuple[str, str | None, int]] = []
        """(topic, key, number) of what arrived, in order."""
        self.answer: Callable[[int, str, bool], Answer] = lambda number, topic, alone: ACKNOWLEDGED
        self.meanwhile: Callable[[], object] = lambda: None
        self.closed = 0
        self._in_flight: list[tuple[OutgoingRecord, Delivered]] = []

    def send(self, record: OutgoingRecord, delivered: Delivered) -> None:
        self._in_flight.append((record, delivered))

    def poll(self, timeout_seconds: float) -> None:
        self.meanwhile()
        alone = len(self._in_flight) == 1
        in_flight, self._in_flight = self._in_flight, []
        for record, delivered in in_flight:
            answer = self.answer(number_of(record), record.topic, alone)
            if answer is None:
                self._in_flight.append((record, delivered))
                continue
            if answer is ACKNOWLEDGED:
                key = None if record.key is None else record.key.decode()
                self.log.append((record.topic, key, number_of(record)))
            delivered(*answer)
        if self._in_flight:
            self.now += timeout_seconds

    def close(self) -> None:
        self.closed += 1
        self._in_flight.clear()

    def numbers(self) -> list[int]:
        """What arrived, in order; and it is forgotten."""
        log, self.log = self.log, []
        return [number for _, _, number in log]


def number_of(record: OutgoingRecord) -> int:
    value = dict(record.headers)["ce_id"]
    assert isinstance(value, bytes)
    return UUID(value.decode()).int


class Bench:
    """A relay on a database, and a look at what it did."""

    def __init__(self, database_url: str) -> None:
        self.url = database_url
        self.sessions: list[Session] = []
        self.looking = self.open({})
        self.broker = Broker()
        self.relay = self.new_relay(self.broker)
        self.look("INSERT INTO sluice.entities (entity, shards) VALUES ('e', 2)")
        self.look("INSERT INTO sluice.queues (queue, entity) VALUES ('e.0', 'e'), ('e.1', 'e')")

    def open(self, plans: Mapping[str, str] = QUEUE_PLANS) -> RecordingSession:
        session = RecordingSession(self.url, application_name="test relay", plans=plans)
        session.ran = []
        self.sessions.append(session)
        return session

    def new_relay(self, broker: Broker) -> Relay:
        self.session = self.open()
        return Relay(self.session, broker, source="test", clock=lambda: broker.now)

    def add(self, *rows: tuple[int, str | None], queue: str = "e.0", topic: str = "t") -> None:
        """Outgoing events by id (also their event id) and key."""
        for number, key in rows:
            self.look(
                "INSERT INTO sluice.outbox_events (queue, id, event_id, topic, key, type, headers, payload)"
                " VALUES (%s, %s, %s, %s, %s, 'made', '{}', '{}')",
                (queue, number, str(UUID(int=number)), topic, key),
            )

    def run(self, seconds: float = 0.0) -> Relayed:
        """So many seconds later the relay runs once."""
        self.broker.now += seconds
        return self.relay.run_once()

    def left(self) -> list[int]:
        return [number for (number,) in self.look("SELECT id FROM sluice.outbox_events ORDER BY id")]

    def look(self, query: str, values: tuple[Any, ...] | None = None) -> list[tuple[Any, ...]]:
        with self.looking.connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    bench = Bench(database_url)
    with structlog.testing.capture_logs():
        yield bench
    faults.arm("")
    for session in bench.sessions:
        session.close()


def test_what_waits_is_sent_in_order_and_deleted(bench: Bench) -> None:
    bench.add((3, "a"), (1, "a"), (2, "b"), (4, "a"), (5, None))
    bench.add((6, "a"), queue="e.1", topic="u")
    assert bench.run() == Relayed(sent=6)
    assert bench.left() == []
    log = bench.broker.log
    assert [number for topic, key, number in log if (topic, key) == ("t", "a")] == [1, 3, 4]
    assert sorted(number for _, _, number in log) == [1, 2, 3, 4, 5, 6]
    assert bench.run() == Relayed()


def test_a_queue_is_one_relays_at_a_time_and_no_row_is_sent_twice(bench: Bench) -> None:
    other = Broker()
    another = bench.new_relay(other)
    bench.add((1, "a"), (2, "a"), (3, "b"))
    in_between: list[Relayed] = []

    def meanwhile() -> None:
        # Within the flush of the first; what comes into another queue is for whoever comes.
        if not in_between:
            bench.add((4, "a"), queue="e.1")
            in_between.append(another.run_once())

    bench.broker.meanwhile = meanwhile
    assert bench.run() == Relayed(sent=3)
    assert in_between == [Relayed(sent=1)]
    assert (sorted(bench.broker.numbers()), other.numbers()) == ([1, 2, 3], [4])
    assert another.run_once() == bench.run() == Relayed()
    assert bench.left() == []


def test_what_is_not_acknowledged_stays_and_holds_its_key(bench: Bench) -> None:
    bench.add((1, "a"), (2, "a"), (3, "b"), (4, "a"))
    bench.broker.answer = lambda number, *_: AWAY if number == 2 else ACKNOWLEDGED
    assert bench.run() == Relayed(sent=2, left=2)
    assert bench.left() == [2, 4]
    bench.broker.answer = lambda *_: ACKNOWLEDGED
    assert bench.run(MAX_AWAY_SECONDS) == Relayed(sent=2)
    assert bench.broker.numbers() == [1, 3, 2, 4]


@pytest.mark.parametrize("point", ["relay.claimed", "relay.handed", "relay.acknowledged"])
def test_a_relay_that_ends_before_its_commit_leaves_the_rows(bench: Bench, point: str) -> None:
    bench.add((1, "a"), (2, "a"))
    faults.arm(f"{point}:1:raise")
    with pytest.raises(FaultInjected):
        bench.run()
    assert bench.left() == [1, 2]
    first = bench.broker.numbers()
    assert first == ([1, 2] if point == "relay.acknowledged" else [])
    assert bench.run() == Relayed(sent=2)
    assert bench.broker.numbers() == [1, 2]


def test_records_without_an_answer_are_given_up_with_their_producer(bench: Bench) -> None:
    bench.add((1, "a"), (2, "a"), (3, "b"))
    bench.broker.answer = lambda number, *_: None if number == 1 else ACKNOWLEDGED
    assert bench.run() == Relayed(sent=1, left=2)
    assert FLUSH_SECONDS <= bench.broker.now < FLUSH_SECONDS + 1
    assert bench.broker.closed == 1
    bench.broker.answer = lambda *_: ACKNOWLEDGED
    assert bench.run() == Relayed(sent=2)
    assert bench.broker.numbers() == [3, 1, 2]


def test_a_refused_record_holds_its_key_in_its_queue_and_nothing_else(bench: Bench) -> None:
    bench.add((1, "a"), (2, "a"), (3, "b"), (4, None), (5, None), (6, "a"))
    # The same key of another topic, and of another queue: below all that is refused there.
    bench.add((7, "a"), topic="u")
    bench.add((8, "a"), (9, "c"), queue="e.1")
    bench.broker.answer = lambda number, *_: REFUSED if number in (2, 4) else ACKNOWLEDGED
    # In one page a (topic, key) is one chain, of whatever queues.
    assert bench.run() == Relayed(sent=5, refused=2, left=2)
    assert bench.left() == [2, 4, 6, 8]
    assert bench.look("SELECT queue, id, topic, key, error FROM sluice.outbox_refusals ORDER BY id") == [
        ("e.0", 2, "t", "a", "too large"),
        ("e.0", 4, "t", None, "too large"),
    ]
    bench.add((10, "a"), (11, None), (12, "b"))
    assert bench.run() == Relayed(sent=3)
    assert bench.left() == [2, 4, 6, 10]
    bench.broker.numbers()
    bench.broker.answer = lambda *_: ACKNOWLEDGED
    bench.look("DELETE FROM sluice.outbox_refusals")
    assert bench.run() == Relayed(sent=4)
    assert [number for number in bench.broker.numbers() if number != 4] == [2, 6, 10]


def test_a_refused_record_far_behind_carries_no_hint_over_what_lies_between(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.relay.PAGE_ROWS", 2)
    monkeypatch.setattr("tasks.relay.LEAST_PAGE_ROWS", 2)
    bench.add((1, "a"), (2, "b"), (3, "c"), (4, "d"), (9, "x"))
    bench.look(
        "INSERT INTO sluice.outbox_refusals (queue, id, topic, key, error) VALUES ('e.0',9,'t','x','')"
    )
    while bench.run(HINT_SECONDS).sent:
        pass
    assert bench.left() == [9]


def test_suspects_are_tried_alone_and_the_innocent_go_on(bench: Bench) -> None:
    bench.add((1, "a"), (2, "b"), (3, "c"), (4, "a"))
    tried_alone = []

    def answer(number: int, topic: str, alone: bool) -> Answer:
        if not alone:
            return REFUSED
        tried_alone.append(number)
        return REFUSED if number == 2 else ACKNOWLEDGED

    bench.broker.answer = answer
    assert bench.run() == Relayed(sent=3, refused=1)
    assert tried_alone == [1, 4, 2, 3]
    assert bench.look("SELECT id FROM sluice.outbox_refusals") == [(2,)]
    assert bench.left() == [2]


def test_a_topic_that_is_away_is_left_alone_longer_and_longer_and_blocks_no_other(bench: Bench) -> None:
    bench.add(*((number, f"k{number}") for number in range(1, 6)), topic="gone")
    bench.broker.answer = lambda number, topic, _: AWAY if topic == "gone" else ACKNOWLEDGED
    tried = []
    for number in range(100, 200):
        bench.add((number, "a"))
        result = bench.run(0.5)
        assert result.sent == 1, "the other topic is sent at once"
        if result.left:
            tried.append(bench.broker.now)
    waits = [later - earlier for earlier, later in pairwise(tried)]
    assert waits == sorted(waits)
    assert waits[-1] == MAX_AWAY_SECONDS
    bench.broker.answer = lambda *_: ACKNOWLEDGED
    bench.broker.numbers()
    assert bench.run(MAX_AWAY_SECONDS) == Relayed(sent=5)
    assert sorted(bench.broker.numbers()) == [1, 2, 3, 4, 5]


def test_hints_are_saved_every_few_seconds_and_never_fall(bench: Bench) -> None:
    def saved() -> dict[str, int]:
        return dict(bench.look("SELECT queue, sent_through FROM sluice.relay_progress"))

    bench.add((1, "a"), (2, "a"))
    bench.run()
    assert saved() == {"e.0": 2}
    bench.add((3, "a"))
    bench.run()
    assert saved() == {"e.0": 2}, "not with every page"
    bench.add((4, "a"), (7, "b"))
    bench.broker.answer = lambda number, *_: AWAY if number == 7 else ACKNOWLEDGED
    bench.run(HINT_SECONDS)
    assert saved() == {"e.0": 6}
    # What another relay saved is taken over.
    bench.look("UPDATE sluice.relay_progress SET sent_through = 3")
    later = bench.new_relay(bench.broker)
    bench.broker.answer = lambda *_: ACKNOWLEDGED
    bench.broker.now += MAX_AWAY_SECONDS
    assert later.run_once() == Relayed(sent=1)
    assert saved() == {"e.0": 7}


def test_hints_end_with_their_connection(bench: Bench) -> None:
    bench.add((5, "a"))
    bench.run()
    bench.session.close()
    # Another server, with an older state: what was sent is there again, and the hint is lower.
    bench.add((3, "a"), (5, "a"))
    bench.look("UPDATE sluice.relay_progress SET sent_through = 2")
    assert bench.run() == Relayed(sent=2)
    assert bench.broker.numbers() == [5, 3, 5]


def test_hints_that_could_not_be_read_are_read_at_the_next_run(bench: Bench) -> None:
    bench.add((1, "a"))
    bench.look("ALTER TABLE sluice.relay_progress RENAME TO elsewhere")
    with pytest.raises(Exception, match="relay_progress"):
        bench.run()
    bench.look("ALTER TABLE sluice.elsewhere RENAME TO relay_progress")
    assert bench.run() == Relayed(sent=1)


SENT_EARLY, SENT_LATE, WAITING = 2_000, 20_000, 100


def test_dead_rows_under_an_old_snapshot_make_no_statement_dearer(bench: Bench) -> None:
    bench.add((1, "k1"))
    old = bench.open({})
    old.command("BEGIN ISOLATION LEVEL REPEATABLE READ")
    old.command("SELECT count(*) FROM sluice.outbox_events")
    touched = []
    for first, last in ((2, SENT_EARLY), (SENT_EARLY + WAITING + 1, SENT_LATE)):
        add_many(bench, first, last)
        while bench.run().sent:
            pass
        # Autovacuum would: the planner learns that hardly a row is alive.
        bench.look("ANALYZE sluice.outbox_events")
        add_many(bench, last + 1, last + WAITING)
        hints = dict(bench.relay._sent_through)
        assert hints == {"e.0": last, "e.1": 0}
        deleting = ("e.0", bare_array(range(last + 1, last + WAITING + 1)), last + 1, last + WAITING)
        touched.append(
            [
                *(pages(bench, statement, hints) for statement in (LOCK_WAITING, READ_PAGE)),
                touched_pages(bench.session.explain(DELETE_SENT, deleting)),
            ]
        )
    early, late = touched
    # The index is one level higher at most.
    assert all(after <= before + 2 for before, after in zip(early, late, strict=True)), touched
    # Without hints all that is dead is walked over: so the figures can grow.
    assert pages(bench, LOCK_WAITING, dict.fromkeys(hints, 0)) > 10 * late[0]
    old.command("COMMIT")


def add_many(bench: Bench, first: int, last: int) -> None:
    bench.look(
        "INSERT INTO sluice.outbox_events (queue, id, event_id, topic, key, type, headers, payload)"
        " SELECT 'e.0', n, gen_random_uuid(), 't', 'k' || n, 'made', '{}', '{}'"
        f" FROM generate_series({first}, {last}) n"
    )


def pages(bench: Bench, statement: Statement, hints: dict[str, int]) -> int:
    """Pages that a statement touches, by a walk along the index alone."""
    arrays = text_array(hints), bare_array(hints.values())
    plan = bench.session.explain(statement, arrays if statement is LOCK_WAITING else (*arrays, "{}", 2_000))
    for path in paths(plan):
        if path[-1].get("Relation Name") == "outbox_events":
            assert path[-1]["Node Type"] in ("Index Scan", "Index Only Scan"), statement.name
            # What is above the LIMIT is a page; what is below it, the whole queue.
            limits = [n for n, node in enumerate(path) if node["Node Type"] == "Limit"]
            assert not [node for node in path[limits[-1] if limits else 0 :] if "Sort" in node["Node Type"]]
    return touched_pages(plan)


def touched_pages(plan: dict[str, Any]) -> int:
    """Of the whole plan."""
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


def paths(plan: dict[str, Any], above: tuple[dict[str, Any], ...] = ()) -> Iterator[list[dict[str, Any]]]:
    """Every node of a plan, with those above it."""
    yield [*above, plan]
    for inner in plan.get("Plans", ()):
        yield from paths(inner, (*above, plan))
