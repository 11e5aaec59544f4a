"""Bad inputs through a real Kafka. Each has its expected outcome, and no other event is blocked or lost."""

import json
from typing import Any, NamedTuple

from confluent_kafka import Producer
from sqlalchemy import create_engine, text

from sluice.testing.servers.deployment import Deployment
from tests.system.conftest import MakeDeployment
from tests.system.tasks import strict_app

DECODE, NO_HANDLER = "DecodeError", "NoHandler"


OWN_KEY = b"a key of the case's own"


class Case(NamedTuple):
    """One record, its expected outcome, and, for a dead letter, the class of the error."""

    value: bytes | None
    outcome: str = "dead"
    error: str | None = DECODE
    key: bytes | None = OWN_KEY
    headers: tuple[tuple[str, bytes | None], ...] = ()


def event(data: Any = None, **fields: Any) -> dict[str, Any]:
    made = {"event_id": "id", "type": "thing.set", "version": 1, "occurred_at": "2026-01-01T00:00:00Z"}
    return made | {"data": {"amount": 1} if data is None else data} | fields


def written(data: Any = None, **fields: Any) -> bytes:
    return json.dumps(event(data, **fields)).encode()


def without(name: str) -> bytes:
    return json.dumps({key: value for key, value in event().items() if key != name}).encode()


def raw_data(text_: str) -> bytes:
    """Returns an event whose `data` is exactly this JSON text."""
    return written("HERE").replace(b'"HERE"', text_.encode())


def nested(depth: int) -> bytes:
    return raw_data('{"amount":1,"name":' + "[" * depth + "]" * depth + "}")


CASES: dict[str, Case] = {
    "NUL in a string": Case(raw_data('{"amount":1,"name":"a\0b"}')),
    "escaped NUL": Case(raw_data('{"amount":1,"name":"a\\u0000b"}')),
    "lone surrogate": Case(raw_data('{"amount":1,"name":"\\ud800"}')),
    "NaN": Case(raw_data('{"amount":NaN}')),
    "Infinity": Case(raw_data('{"amount":Infinity}')),
    "1e400": Case(raw_data('{"amount":1e400}')),
    "an integer of 5,000 digits": Case(raw_data('{"amount":' + "9" * 5_000 + "}")),
    "2^63": Case(raw_data('{"amount":9223372036854775808}')),
    "1.5 for an integer": Case(raw_data('{"amount":1.5}')),
    "true for an integer": Case(raw_data('{"amount":true}')),
    "text for an integer": Case(raw_data('{"amount":"1"}')),
    "nesting of 100": Case(nested(100)),
    "nesting of 6,000": Case(nested(6_000)),
    "nesting of 100,000": Case(nested(100_000)),
    "duplicate keys": Case(raw_data('{"amount":1,"amount":2}')),
    "invalid UTF-8": Case(b'{"event_id":"\xff"}'),
    "BOM": Case(b"\xef\xbb\xbf" + written()),
    "UTF-16": Case(written().decode().encode("utf-16")),
    "empty value": Case(b""),
    "null": Case(b"null"),
    "scalar": Case(b"1"),
    "array": Case(b"[]"),
    "2 MiB": Case(raw_data('{"amount":1,"name":"' + "x" * 2**21 + '"}')),
    "id of 300 characters": Case(written(event_id="x" * 300)),
    "empty id": Case(written(event_id=""), error="EventIdMissing"),
    "missing type": Case(without("type")),
    "missing data: the whole object is the data": Case(without("data")),
    "missing version": Case(without("version"), error="EffectRefused"),
    "missing id": Case(without("event_id"), error="EventIdMissing"),
    "negative version": Case(written(version=-5), "applied", None),
    "huge version": Case(raw_data("{}").replace(b'"version": 1', b'"version": 99999999999999999999')),
    "timestamp without offset": Case(written(occurred_at="2026-01-01T00:00:00")),
    "year 0": Case(written(occurred_at="0000-01-01T00:00:00Z")),
    "year 20000": Case(written(occurred_at="20000-01-01T00:00:00Z")),
    "BC": Case(written(occurred_at="-0001-01-01T00:00:00Z")),
    "infinity as a time": Case(written(occurred_at="infinity")),
    "February 30": Case(written(occurred_at="2026-02-30T00:00:00Z")),
    "unknown type": Case(written(type="thing.unheard"), error=NO_HANDLER),
    "unknown field": Case(written({"amount": 1, "more": 1})),
    "missing field": Case(written({"name": "x"})),
    "wrong type": Case(written({"amount": {}})),
    "null key": Case(written(type="thing.made"), error="EffectRefused", key=None),
    "empty key": Case(written(type="thing.made"), "applied", None, key=b""),
    "float for money": Case(written({"amount": 1, "price": 1.5})),
    "text for money": Case(written({"amount": 1, "price": "1.50"}), "applied", None),
    "key that is not UTF-8": Case(written(type="thing.made"), error="EffectRefused", key=b"\xff"),
    "key of 12,000 characters": Case(written(type="thing.made"), error="EffectRefused", key=b"k" * 12_000),
    "tombstone of an entity without handler": Case(None, error=NO_HANDLER),
    "header with null value": Case(written(), "applied", None, headers=(("h", None),)),
    "string too long for its column": Case(written({"amount": 1, "name": "x" * 9}), error=None),
    "foreign key": Case(written({"amount": 1, "parent": "nobody"}), error="ForeignKeyViolation"),
    "deferred foreign key": Case(written({"amount": 1, "later": "nobody"}), error="ForeignKeyViolation"),
    "unique": Case(written({"amount": 1, "name": "taken"}), error="UniqueViolation"),
    "check": Case(written({"amount": -1}), error="CheckViolation"),
}
NEIGHBOURS = 4  # The number of good events before each bad event.


def test_every_bad_input_has_its_outcome_and_good_events_are_applied(make_deployment: MakeDeployment) -> None:
    deployment = make_deployment("tests.system.tasks.strict_app", partitions=1)
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    sender = Sender(deployment)
    sender.send(b"owner", Case(written({"amount": 1, "name": "taken"})))
    sender.flush()
    deployment.wait_settled()
    for number, (name, case) in enumerate(CASES.items()):
        key = name.encode() if case.key == OWN_KEY else case.key
        for n in range(NEIGHBOURS):
            sender.send(f"good-{number}-{n}".encode(), Case(written({"amount": n})))
        sender.send(key, case)
    sender.flush()
    deployment.wait_settled(timeout_seconds=120)
    letters = _letters(deployment)
    found = {name: _outcome(letters, case, name) for name, case in CASES.items()}
    wanted = {name: case.outcome for name, case in CASES.items()}
    assert found == wanted
    for name, case in CASES.items():
        if case.outcome == "dead":
            value, error = letters[_key(case, name)]
            assert value == case.value, name
            assert case.error in (None, error), f"{name}: {error}"
    rows = deployment.rows(strict_app.strict_things)
    good = {f"good-{number}-{n}" for number in range(len(CASES)) for n in range(NEIGHBOURS)}
    assert good <= rows.keys()
    dead = sum(case.outcome == "dead" for case in CASES.values())
    assert dict(deployment.outcomes()) == {"applied": len(good) + 1 + len(CASES) - dead, "dead": dead}


class Sender:
    """Sends raw records with librdkafka, because kafka-python cannot send a header without a value."""

    def __init__(self, deployment: Deployment) -> None:
        self._topic = f"strict-things{deployment.topic_suffix}"
        servers = deployment.urls.kafka_bootstrap_servers
        largest = {"message.max.bytes": 8 * 1024 * 1024, "compression.type": "gzip"}
        self._producer = Producer({"bootstrap.servers": servers, "log_level": 2, **largest})

    def send(self, key: bytes | None, case: Case) -> None:
        self._producer.produce(self._topic, case.value, key, headers=list(case.headers))

    def flush(self) -> None:
        assert self._producer.flush(30) == 0


def _key(case: Case, name: str) -> bytes | None:
    return name.encode() if case.key == OWN_KEY else case.key


def _outcome(letters: dict[bytes | None, tuple[bytes | None, str]], case: Case, name: str) -> str:
    return "dead" if _key(case, name) in letters else "applied"


def _letters(deployment: Deployment) -> dict[bytes | None, tuple[bytes | None, str]]:
    engine = create_engine(deployment.urls.database_url)
    with engine.begin() as connection:
        found = connection.execute(text("SELECT key, value, error_class FROM sluice.dead_letters")).all()
    engine.dispose()
    return {
        None if key is None else bytes(key): (None if value is None else bytes(value), error)
        for key, value, error in found
    }
