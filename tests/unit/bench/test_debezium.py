"""The sink of Debezium gets the same events with a schema, and the configuration that Debezium advises."""

import json
from dataclasses import replace

from bench.contenders import DEBEZIUM, HANDWRITTEN
from bench.drain import split_available
from bench.peers.config import PeerConfig
from bench.peers.debezium import properties, record_with_schema, sink_properties
from bench.streams import ALL_NEW
from sluice.stack import StackError
from sluice.stack.service import Report

CONFIG = PeerConfig("postgresql+psycopg2://me@127.0.0.1:5433/bench_7", "", "127.0.0.1:9092", "t", "g")


def test_a_record_with_schema_holds_the_fields_of_the_event() -> None:
    for event in ALL_NEW.events(20, seed=3):
        key, value = map(json.loads, record_with_schema(event))
        assert key["payload"] == {"key": event.key}
        assert [field["field"] for field in key["schema"]["fields"]] == ["key"]
        assert value["payload"] == {"version": event.version, **json.loads(event.value)["data"]}
        assert {field["field"] for field in value["schema"]["fields"]} == set(value["payload"])


def test_the_sink_upserts_by_key_in_one_statement_per_batch() -> None:
    lines = properties(sink_properties(CONFIG)).splitlines()
    assert "insert.mode=upsert" in lines
    assert "primary.key.mode=record_key" in lines
    assert "use.reduction.buffer=true" in lines
    assert "dialect.postgres.unnest.insert.enabled=true" in lines
    assert "connection.url=jdbc:postgresql://127.0.0.1:5433/bench_7?currentSchema=bench_debezium" in lines


def test_a_contender_that_cannot_be_fetched_is_missing_with_its_reason() -> None:
    def fail(_: Report) -> None:
        raise StackError("Maven could not\n fetch it")

    said: list[str] = []
    available, missing = split_available((HANDWRITTEN, replace(DEBEZIUM, fetch=fail)), said.append)
    assert available == (HANDWRITTEN,)
    assert [(one.contender, one.reason) for one in missing] == [(DEBEZIUM.name, "Maven could not fetch it")]
    assert len(said) == 1
