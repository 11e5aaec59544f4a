"""A peer with Debezium's JDBC sink in Kafka Connect, tuned as its documentation advises: upserts only.

`python -m bench.peers.debezium` writes the configurations and becomes the Java process of a standalone
Connect worker with two tasks. Run it in a folder of its own.
"""

import json
import os
from pathlib import Path

from sqlalchemy.engine import make_url

from bench.connect_jars import connect_folder, fetch_connect
from bench.events import BenchEvent
from bench.peers.config import PeerConfig, read_config
from sluice.stack.kafka_jars import cache_folder, fetch_jars, find_java
from sluice.stack.ports import LOOPBACK, choose_ports
from sluice.stack.service import Report

SCHEMA = "bench_debezium"
GUARANTEE = (
    "at least once, order by partition; the last record of a key wins, whatever its version; no outgoing"
    " events; one bad event stops its task"
)
TASKS = 2  # as many as the other contenders have processes
BATCH = 2_000  # records per poll and per statement: larger than the default of 500
HEAP = "-Xmx768m"  # as for the broker

# The insert with UNNEST takes only keys that are structs.
_KEY_TYPES = {"key": "string"}
_VALUE_TYPES = {"version": "int64", "amount_cents": "int64", "note": "string"}


def _document(types: dict[str, str], payload: dict[str, object]) -> bytes:
    """Returns a JSON document with its schema, as Connect's converter needs it."""
    fields = [{"field": name, "type": kind, "optional": False} for name, kind in types.items()]
    schema = {"type": "struct", "optional": False, "fields": fields}
    return json.dumps({"schema": schema, "payload": payload}, separators=(",", ":")).encode()


def record_with_schema(event: BenchEvent) -> tuple[bytes, bytes]:
    """Returns key and value of the record, with the JSON schemas that Connect's converter needs."""
    row = {"version": event.version, **json.loads(event.value)["data"]}
    return _document(_KEY_TYPES, {"key": event.key}), _document(_VALUE_TYPES, row)


def worker_properties(config: PeerConfig, folder: Path, jars: Path, port: int) -> dict[str, object]:
    """Returns the configuration of the Connect worker."""
    return {
        "bootstrap.servers": config.bootstrap_servers,
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "offset.storage.file.filename": folder / "connect.offsets",
        "plugin.path": jars / "plugins",
        "listeners": f"http://{LOOPBACK}:{port}",
    }


def sink_properties(config: PeerConfig) -> dict[str, object]:
    """Returns the configuration of the sink."""
    url = make_url(config.database_url)
    return {
        "name": "bench-sink",
        "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
        "tasks.max": TASKS,
        "topics": config.topic,
        "connection.url": f"jdbc:postgresql://{url.host}:{url.port}/{url.database}?currentSchema={SCHEMA}",
        "connection.username": url.username,
        "connection.password": url.password or "none",
        "collection.name.format": f"{SCHEMA}.rows",
        "insert.mode": "upsert",
        "primary.key.mode": "record_key",
        "primary.key.fields": "key",
        "schema.evolution": "none",
        "batch.size": BATCH,
        # Of several records of a key in a batch, only the last one is written.
        "use.reduction.buffer": "true",
        "dialect.postgres.unnest.insert.enabled": "true",
        "consumer.override.group.id": config.group,
        "consumer.override.max.poll.records": BATCH,
        "consumer.override.isolation.level": "read_committed",
        "consumer.override.auto.offset.reset": "earliest",
        "consumer.override.fetch.min.bytes": 65_536,
        "consumer.override.fetch.max.wait.ms": 10,
    }


def properties(values: dict[str, object]) -> str:
    """Returns the text of a properties file."""
    return "".join(f"{name}={value}\n" for name, value in values.items())


def fetch(report: Report) -> None:
    """Downloads the jars unless they are in the cache. Raises StackError with the reason if it cannot."""
    find_java()
    fetch_connect(cache_folder(os.environ), report)


def main() -> None:
    """Becomes the Java process."""
    config, folder, cache = read_config("debezium"), Path.cwd(), cache_folder(os.environ)
    jars = connect_folder(cache)
    port = choose_ports(("connect",), {}, set())["connect"]
    worker, sink = folder / "connect.properties", folder / "sink.properties"
    worker.write_text(properties(worker_properties(config, folder, jars, port)))
    sink.write_text(properties(sink_properties(config)))
    java = find_java()
    program = "org.apache.kafka.connect.cli.ConnectStandalone"
    # The broker's jars have the implementation of the log, without which errors are not printed.
    classes = f"{jars}/connect/*:{fetch_jars(cache, print)}/*"
    os.execv(java, [java, HEAP, "-cp", classes, program, str(worker), str(sink)])


if __name__ == "__main__":
    main()
