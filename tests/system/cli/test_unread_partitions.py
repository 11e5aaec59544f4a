"""The reports of `status` and `doctor` about unread partitions and open transactions."""

import pytest
from confluent_kafka import Producer

from examples.shop.generate import generate
from sluice.db.delivery.partition_reads import read_partition_reads
from tests.system.cli.test_cli import document, sluice
from tests.system.conftest import MakeDeployment


def test_records_behind_an_open_transaction_are_counted_until_it_ends(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment()
    users = f"users{deployment.topic_suffix}"
    producer = Producer(
        {
            "bootstrap.servers": deployment.urls.kafka_bootstrap_servers,
            "transactional.id": deployment.run.source,
        }
    )
    producer.init_transactions(60)
    producer.begin_transaction()
    producer.produce(users, b"v", partition=2)
    producer.flush(60)
    # This record is not part of the transaction, but in the log it is behind the start of the open
    # transaction.
    deployment.producer.send(users, b"w", partition=2).get(60)

    def held() -> tuple[int, int, int]:
        done = sluice(deployment, "status", "--json")
        assert done.returncode == 0
        [topic] = [topic for topic in document(done)["topics"] if topic["topic"] == users]
        return topic["log_end"], topic["behind_transaction"], topic["partitions"][2]["behind_transaction"]

    assert held() == (0, 2, 2)
    lines = " ".join(sluice(deployment, "status").stdout.decode().split())
    assert f"{users}: up to 2 records wait behind an open transaction of a producer ({users}[2] 2)" in lines
    producer.commit_transaction(60)
    # The commit marker counts as a record.
    deployment.wait_until(lambda: held() == (3, 0, 0), timeout_seconds=30, what="the transaction has ended")


@pytest.mark.matrix
def test_partitions_that_no_bridge_reads_are_shown_with_reason_and_duration(
    make_deployment: MakeDeployment,
) -> None:
    deployment = make_deployment()
    users = f"users{deployment.topic_suffix}"
    bridge = deployment.run.start_bridge()
    deployment.run.start_worker()
    deployment.produce(generate("users", count=20, seed=1))
    deployment.wait_settled()

    def unread() -> list[tuple[str, str, int]]:
        done = document(sluice(deployment, "status", "--json"))
        return [(one["topic"], one["kind"], one["partition"]) for one in done["unread"]]

    def all_are_read() -> bool:
        reads = read_partition_reads(deployment.session)
        return len(reads) == 4 * len(deployment.registry.topics) and all(one.was_read for one in reads)

    deployment.wait_until(all_are_read, timeout_seconds=30, what="the bridge reports all partitions as read")
    assert not unread()
    assert bridge.stop() == 0
    deployment.session.command("UPDATE sluice.partition_reads SET read_at = read_at - interval '60 s'")
    assert {kind for _, kind, _ in unread()} == {"no_bridge"}
    assert b"not read for 6" in sluice(deployment, "status").stdout
    findings = document(sluice(deployment, "doctor", "--json"))["findings"]
    assert [one["severity"] for one in findings if "no bridge runs" in one["problem"]] == ["warning"]
    assert users in str(findings)
