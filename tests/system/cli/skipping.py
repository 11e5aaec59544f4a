"""A deployment that reads payments from one partition. Tests add batches that no normal producer makes."""

import json
from collections.abc import Sequence
from typing import Any

from sluice.testing.servers.deployment import Deployment
from tests.harness.raw_batches import build_batch, produce_batch
from tests.system.cli.test_cli import WHY, document, sluice
from tests.system.conftest import MakeDeployment
from tests.system.tasks.rebuilding import payment, payments

ALREADY = 3
PER_BATCH = 5


def deploy(make_deployment: MakeDeployment, **environment: str) -> Deployment:
    """Returns a deployment. Its bridge and its worker run, and have applied ALREADY payments."""
    deployment = make_deployment(partitions=1, **environment)
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues("payment"))
    deployment.produce(payments(0, ALREADY))
    wait_applied(deployment, ALREADY)
    deployment.wait_settled()
    return deployment


def place_of(deployment: Deployment) -> tuple[str, int]:
    """Returns the topic and partition of the payments."""
    return f"payments{deployment.topic_suffix}", 0


def wait_applied(deployment: Deployment, count: int) -> None:
    """Waits until `count` payments are applied and no record has another outcome."""
    deployment.wait_until(
        lambda: deployment.outcomes("payments") == {"applied": count},
        timeout_seconds=60,
        what=f"{count} payments are applied",
    )


def payment_records(first: int, count: int) -> list[tuple[str, bytes]]:
    """Returns the keys and values of `count` payments, numbered from `first`."""
    return [(f"pay-{n}", json.dumps(payment(n).value).encode()) for n in range(first, first + count)]


def produce_records(
    deployment: Deployment, records: Sequence[tuple[str, bytes]], *, codec: str = "none"
) -> int:
    """Produces one batch. Returns the offset of its first record."""
    servers = deployment.urls.kafka_bootstrap_servers
    return produce_batch(servers, place_of(deployment), build_batch(records, codec=codec))


def skip_document(deployment: Deployment, offset: int, *words: str) -> Any:
    """Returns the JSON document of `sluice skip`."""
    topic, number = place_of(deployment)
    done = sluice(deployment, "skip", f"{topic}:{number}:{offset}", *WHY, "--json", *words)
    assert done.returncode == 0, done.stderr.decode()
    return document(done)


def assert_commands_read(make_deployment: MakeDeployment, **environment: str) -> None:
    """Asserts that the bridge, `verify`, `trace` and `status` read batches of every codec."""
    deployment = deploy(make_deployment, **environment)
    topic, _ = place_of(deployment)
    offsets = []
    for n, codec in enumerate(("gzip", "snappy", "lz4", "zstd")):
        first = ALREADY + n * PER_BATCH
        offsets.append(produce_records(deployment, payment_records(first, PER_BATCH), codec=codec))
    end = ALREADY + len(offsets) * PER_BATCH
    wait_applied(deployment, end)
    assert document(sluice(deployment, "verify", "--json"))["ok"]
    for offset in offsets:
        assert document(sluice(deployment, "trace", f"{topic}:0:{offset}", "--json"))["outcome"] == "applied"
    (shown,) = (
        one for one in document(sluice(deployment, "status", "--json"))["topics"] if one["topic"] == topic
    )
    assert (shown["log_end"], shown["lag"]) == (end, 0)
