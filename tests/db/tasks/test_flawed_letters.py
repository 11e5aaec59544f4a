"""Records that do not fit in a message are dead letters. A redrive reads them from Kafka, or is refused."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from sluice.db.connection import BATCH_PLANS, Session
from sluice.db.errors import DeploymentBroken
from sluice.kafka_io.bounded_record import bounded, count_bytes
from sluice.kafka_io.record_types import Flaw, Record
from sluice.kafka_io.whole_record import RecordNotRead
from sluice.runtime.place import Place
from sluice.tasks.installation import formats
from sluice.tasks.redrive import Redriver
from tests.db.tasks import applying
from tests.db.tasks.applying import Bench, made, slice_of, thing_set

MOST = 100
bench = applying.bench


@dataclass
class Log:
    """The records in a simulated Kafka, and the offsets that a redrive has read."""

    records: dict[int, Record] = field(default_factory=dict)
    read: list[int] = field(default_factory=list)
    before: Callable[[], object] = lambda: None

    def read_whole(self, place: Place, offset: int) -> Record | None:
        assert place == (applying.TOPIC, 0)
        self.before()
        self.read.append(offset)
        return self.records.get(offset)

    def cut(self, record: Record) -> Record:
        """Adds the record to Kafka. Returns the part of the record that a message contains."""
        self.records[record.offset] = record
        found = bounded(record, MOST)
        assert found.flaw is not None
        return found


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def redriver(bench: Bench, database_url: str, log: Log) -> Iterator[Redriver]:
    session = Session(database_url, application_name="test redrive", plans=BATCH_PLANS)
    yield Redriver(session, bench.registry, log.read_whole)
    session.close()


def large(offset: int, key: str = "k", amount: int = 1) -> Record:
    return thing_set(offset, key, amount, event_id=f"e{offset}" + "x" * MOST)


def states(bench: Bench) -> list[tuple[object, ...]]:
    return bench.look('SELECT "offset", state, error_class FROM sluice.dead_letters ORDER BY id')


def test_each_flawed_record_is_a_dead_letter_and_other_records_are_applied(bench: Bench, log: Log) -> None:
    record = large(0)
    unreadable = thing_set(1, "unreadable", 5)._replace(headers=[("a", b"1")], flaw=Flaw(2))
    keyless = Record(2, 1, b"\xff" * 200, b"{}", [])
    bench.apply(slice_of([log.cut(record), unreadable, log.cut(keyless), thing_set(3, "other", 6)]))
    assert bench.outcomes() == {"dead": 3, "applied": 1}
    assert bench.amounts() == {"other": 6}
    assert states(bench) == [
        (0, "dead", "RecordTooLarge"),
        (1, "dead", "HeadersUnreadable"),
        (2, "dead", "RecordTooLarge"),
    ]
    assert bench.look("SELECT entity_key FROM sluice.dead_letters ORDER BY id") == [
        ("k",),
        ("unreadable",),
        (None,),
    ]
    assert record.value is not None
    size, sha256 = count_bytes(record), hashlib.sha256(record.value).hexdigest()
    rows = bench.look(
        "SELECT value IS NULL, flaw, format, type, error_text FROM sluice.dead_letters ORDER BY id"
    )
    assert rows[0][:4] == (True, {"size_bytes": size, "sha256": sha256}, 2, None)
    assert f"{size} bytes" in rows[0][4]
    assert sha256 in rows[0][4]
    assert rows[1] == (
        False,
        {"unreadable_headers": 2},
        2,
        "thing.set",
        "2 headers have names that are not UTF-8",
    )
    assert bench.look("SELECT headers FROM sluice.dead_letters WHERE id = 2") == [([["a", "31"]],)]
    assert bench.look("SELECT key FROM sluice.parked_entities ORDER BY key") == [("k",), ("unreadable",)]


def test_a_redrive_reads_whole_records_from_kafka_without_a_lock(
    bench: Bench, log: Log, redriver: Redriver
) -> None:
    bench.apply(slice_of([log.cut(large(0, amount=5)), thing_set(1, amount=6), log.cut(large(2, amount=7))]))
    assert bench.outcomes() == {"dead": 1, "waiting": 2}
    offsets = iter(range(3, 9))

    def flow() -> None:
        offset = next(offsets)
        assert bench.apply(slice_of([thing_set(offset, "other")], prev=offset - 1)), "the queue was locked"

    log.before = flow
    outcomes = []
    while not (once := redriver.redrive_once("thing", "k")).unparked:
        outcomes.append(dict(once.outcomes))
    assert outcomes == [{"applied": 1}, {"applied": 1}], "a letter that is not stored whole is redriven alone"
    assert log.read == [0, 2]
    assert bench.amounts() == {"k": 7, "other": 1}
    assert bench.outcomes() == {"applied": 5}
    assert bench.look("SELECT count(*) FROM sluice.outbox_events WHERE key = 'k'") == [(3,)]


def _other(record: Record) -> Record:
    return record._replace(value=b"another value")


@pytest.mark.parametrize(
    ("kafka_has", "why"),
    [
        (lambda _: None, "Kafka no longer has the record"),
        (_other, "Kafka has another record there"),
        (lambda record: record._replace(timestamp_ms=5), "Kafka has another record there"),
        (lambda record: record._replace(key=b"l"), "Kafka has another record there"),
    ],
)
def test_a_letter_without_its_record_is_refused_but_earlier_letters_are_not(
    bench: Bench, log: Log, redriver: Redriver, kafka_has: Callable[[Record], Record | None], why: str
) -> None:
    bench.apply(slice_of([made(0, "thing.broken", amount=1), log.cut(large(1)), thing_set(2, amount=6)]))
    bench.registry.handlers["thing.broken"] = bench.registry.handlers["thing.set"]
    found = kafka_has(log.records.pop(1))
    log.records |= {} if found is None else {1: found}
    assert dict(redriver.redrive_once("thing", "k").outcomes) == {"applied": 1}
    refused = redriver.redrive_once("thing", "k")
    assert refused.blocked_by is not None
    assert "things:0:1 is not stored whole" in refused.blocked_by
    assert why in refused.blocked_by
    assert "sluice dlq drop 2" in refused.blocked_by
    assert not refused.outcomes
    assert [state for _, state, _ in states(bench)] == ["done", "waiting", "waiting"]


def test_a_letter_stays_while_kafka_does_not_answer(bench: Bench, log: Log, redriver: Redriver) -> None:
    bench.apply(slice_of([log.cut(large(0))]))

    def silent() -> None:
        raise RecordNotRead("simulated")

    log.before = silent
    assert redriver.redrive_once("thing", "k").blocked_by == (
        "things:0:0 is not stored whole, and the record could not be read: simulated; run the command again"
    )
    log.before = lambda: None
    assert redriver.redrive_once("thing", "k").unparked


def test_a_letter_without_an_entity_is_redriven_from_kafka(
    bench: Bench, log: Log, redriver: Redriver
) -> None:
    bench.apply(slice_of([log.cut(Record(0, 1, b"\xff" * 200, large(0).value, []))]))
    ((letter,),) = bench.look("SELECT id FROM sluice.dead_letters")
    redriver.redrive_letter("thing", letter)
    assert log.read == [0]
    ((text,),) = bench.look("SELECT error_text FROM sluice.dead_letters")
    assert "SLUICE_MAX_RECORD_KIB" not in text, "the error concerns the contents of the record"


def test_a_record_with_unreadable_headers_stays_a_dead_letter(bench: Bench, redriver: Redriver) -> None:
    bench.apply(slice_of([thing_set(0)._replace(flaw=Flaw(1))]))
    blocked = redriver.redrive_once("thing", "k").blocked_by
    assert blocked == "things:0:0 HeadersUnreadable: 1 header has a name that is not UTF-8"


def test_older_code_does_not_redrive_a_letter_of_a_newer_format(
    bench: Bench, log: Log, redriver: Redriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.apply(slice_of([log.cut(large(0))]))
    monkeypatch.setattr(formats, "NEWEST_FORMAT", 1)
    with pytest.raises(DeploymentBroken, match="stored in format 2"):
        redriver.redrive_once("thing", "k")
