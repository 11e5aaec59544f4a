"""Records that do not fit into a message. Other entities continue. `dlq redrive` reads from Kafka."""

import json
from contextlib import closing

import pytest
from confluent_kafka import Producer
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition

from sluice.db.admin.totals import read_positions
from sluice.testing.servers.deployment import Deployment
from tests.harness.header_names import RawName
from tests.system.cli.test_cli import document, sluice
from tests.system.conftest import MakeDeployment
from tests.system.tasks import strict_app
from tests.system.tasks.test_bad_inputs import written

LIMIT_KIB = 64
HUGE = bytes(60 * 1024 * 1024)  # This has only a few kB when it is compressed.
WHY = ("--reason", "test", "--yes")


@pytest.mark.parametrize("client", ["confluent", pytest.param("kafka-python", marks=pytest.mark.matrix)])
def test_flawed_records_affect_only_their_own_entities(make_deployment: MakeDeployment, client: str) -> None:
    deployment = make_deployment(
        "tests.system.tasks.strict_app",
        partitions=1,
        SLUICE_MAX_RECORD_KIB=str(LIMIT_KIB),
        SLUICE_KAFKA_CLIENT=client,
    )
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues())
    _produce(deployment)
    deployment.wait_settled(timeout_seconds=120)
    assert dict(deployment.outcomes()) == {"applied": 20, "dead": 4, "waiting": 1}
    assert deployment.rows(strict_app.strict_things).keys() == {f"good-{n}" for n in range(20)}
    assert [process.exit_code for process in deployment.run.processes] == [None, None]
    letters = {one["entity_key"]: one for one in _letters(deployment)}
    assert {key: one["error_class"] for key, one in letters.items()} == {
        "huge": "RecordTooLarge",
        "large": "RecordTooLarge",
        "unreadable": "HeadersUnreadable",
        None: "RecordTooLarge",
    }
    assert sluice(deployment, "verify").returncode == 0
    shown = document(sluice(deployment, "dlq", "show", str(letters["unreadable"]["id"]), "--json"))
    assert (shown["headers"], shown["flaw"]) == ([{"a": "1"}, {"z": "3"}], {"unreadable_headers": 1})
    shown = document(sluice(deployment, "dlq", "show", str(letters["huge"]["id"]), "--json"))
    assert shown["flaw"]["size_bytes"] == len(HUGE) + len("huge")
    assert "value" not in shown
    place = (f"strict-things{deployment.topic_suffix}", 0)
    traced = document(sluice(deployment, "trace", f"{place[0]}:0:{letters['large']['offset']}", "--json"))
    assert (traced["outcome"], traced["letter"]["error_class"]) == ("dead", "RecordTooLarge")

    redriven = sluice(deployment, "dlq", "redrive", str(letters["large"]["id"]), *WHY)
    assert redriven.returncode == 0, redriven.stderr
    assert deployment.rows(strict_app.strict_things)["large"]["amount"] == 2
    redriven = sluice(deployment, "dlq", "redrive", str(letters["huge"]["id"]), *WHY)
    assert f"the value has {len(HUGE)} bytes, the topic's limit is".encode() in redriven.stdout, "not read"
    with closing(KafkaAdminClient(bootstrap_servers=deployment.urls.kafka_bootstrap_servers)) as admin:
        admin.delete_records({TopicPartition(*place): read_positions(deployment.session)[place]})
    refused = sluice(deployment, "dlq", "redrive", str(letters["huge"]["id"]), *WHY)
    assert refused.returncode == 1
    assert b"is not stored whole, and Kafka no longer has the record" in refused.stdout


def _produce(deployment: Deployment) -> None:
    servers, topic = deployment.urls.kafka_bootstrap_servers, f"strict-things{deployment.topic_suffix}"
    huge = Producer(
        {"bootstrap.servers": servers, "message.max.bytes": 2 * len(HUGE), "compression.type": "gzip"}
    )
    with closing(KafkaProducer(bootstrap_servers=servers, acks="all", compression_type="gzip")) as producer:
        for number in range(20):
            if number == 5:
                producer.flush()
                huge.produce(topic, HUGE, b"huge")
                assert huge.flush(60) == 0
            if number == 10:
                large = json.dumps(json.loads(written({"amount": 1})) | {"pad": "x" * LIMIT_KIB * 1024})
                producer.send(topic, key=b"large", value=large.encode())
                producer.send(topic, key=b"large", value=written({"amount": 2}, event_id="2", version=2))
            if number == 12:
                producer.send(topic, key=b"k" * (LIMIT_KIB * 1024 + 1), value=written())
            if number == 15:
                headers = [("a", b"1"), (RawName(b"\xff"), b"2"), ("z", b"3")]
                producer.send(topic, key=b"unreadable", value=written(), headers=headers)
            producer.send(topic, key=f"good-{number}".encode(), value=written({"amount": number}))


def _letters(deployment: Deployment) -> list[dict[str, object]]:
    found: list[dict[str, object]] = document(sluice(deployment, "dlq", "ls", "--json"))["letters"]
    return found
