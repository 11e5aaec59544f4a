"""Two installations with databases of their own divide the partitions of two topics of one entity type."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]

from sluice.admin.init import initialise
from sluice.db.admin.totals import read_positions
from sluice.runtime.installation import InstallationRefused
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import PartitionShare
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from sluice.testing.servers.oracle import expect, read_log
from tests.system.conftest import MakeDeployment
from tests.waiting import wait_until

APP = "tests.system.bridge.ledger_app"
CLIENTS = ("confluent", pytest.param("kafka-python", marks=pytest.mark.matrix))
EVENTS = 600
ACCOUNTS = 91  # not divisible by three, so that each account has events in both topics

pytestmark = pytest.mark.timeout(400)


class Made(NamedTuple):
    """An event of the ledger."""

    topic: str
    key: str
    value: dict[str, Any]


def ledger(count: int, *, first: int = 0) -> Iterator[Made]:
    """Yields events that alternate between the topics. Each account has events in both topics."""
    for n in range(first, first + count):
        kind = "withdrawal" if n % 3 == 0 else "deposit"
        event = {"event_id": f"e-{n}", "type": f"{kind}.made", "data": {"cents": 7 * n % 1_000}}
        yield Made(f"{kind}s", f"account-{n % ACCOUNTS}", event)


def make_pair(make_deployment: MakeDeployment, client: str) -> tuple[Deployment, Deployment]:
    """Returns two installations. The topic of deposits has 12 partitions, the topic of withdrawals has 6."""
    settings = {"SLUICE_KAFKA_CLIENT": client}
    first = make_deployment(APP, partitions=6, SLUICE_PARTITION_SHARE="1/2", **settings)
    raise_partitions(first, "deposits", 12)
    beside = make_deployment(APP, partitions=6, beside=first, SLUICE_PARTITION_SHARE="2/2", **settings)
    return first, beside


def raise_partitions(deployment: Deployment, topic: str, partitions: int) -> None:
    admin = AdminClient({"bootstrap.servers": deployment.urls.kafka_bootstrap_servers})
    name = topic + deployment.topic_suffix
    admin.create_partitions([NewPartitions(name, partitions)])[name].result()

    def is_known() -> bool:
        return len(admin.list_topics(name, timeout=10).topics[name].partitions) == partitions

    wait_until(is_known, timeout_seconds=30, what=f"{name} has {partitions} partitions")


def registered(deployment: Deployment) -> dict[str, list[int]]:
    """Returns topic → its partitions in Postgres."""
    found: dict[str, list[int]] = {}
    for topic, number in sorted(read_positions(deployment.session)):
        found.setdefault(topic.removesuffix(deployment.topic_suffix), []).append(number)
    return found


@pytest.mark.own("postgres")
@pytest.mark.parametrize("client", CLIENTS)
def test_two_databases_together_equal_the_oracle_of_one(make_deployment: MakeDeployment, client: str) -> None:
    pair = make_pair(make_deployment, client)
    for one in pair:
        one.run.start_worker()
        # The second bridge of an installation gets partitions of the share, too.
        bridges = [one.run.start_bridge(name=f"bridge-{n}") for n in range(2)]
        for bridge in bridges:
            wait_for(bridge, "partitions started")
    first, beside = pair
    first.produce(ledger(EVENTS))
    for one in pair:
        one.wait_settled(timeout_seconds=120)
        complaints = one.complaints(one.tables())
        assert not complaints, "\n".join(complaints[:20])
    assert registered(first) == {"deposits": list(range(0, 12, 2)), "withdrawals": [0, 2, 4]}
    assert registered(beside) == {"deposits": list(range(1, 12, 2)), "withdrawals": [1, 3, 5]}

    log = read_log(KafkaAccess(first.urls.kafka_bootstrap_servers), first.registry.topics)
    oracle = expect(first.registry, log, dict.fromkeys(first.registry.topics, "any id"))
    (accounts,) = first.tables()
    rows = [one.rows(one.tables()[0]) for one in pair]
    assert not rows[0].keys() & rows[1].keys(), "an account is in one database"
    wanted = {key: dict(row.values or {}) for (table, key), row in oracle.rows.items() if table is accounts}
    assert {**rows[0], **rows[1]} == wanted
    assert len(wanted) == ACCOUNTS
    assert all(row["deposits"] and row["withdrawals"] for row in wanted.values()), "each account has both"
    assert sum((one.outcomes() for one in pair), Counter[str]()) == oracle.outcomes
    for one in pair:
        check_commands(one)


def check_commands(deployment: Deployment) -> None:
    """Asserts that the commands of the operator cover the share, and no other partition."""
    share = deployment.share
    verified = json.loads(deployment.run.run_sluice("verify", "--json"))
    assert len(verified["partitions"]) == 9
    assert all(share.holds(one["partition"]) for one in verified["partitions"])
    status = json.loads(deployment.run.run_sluice("status", "--json"))
    assert status["partition_share"] == str(share)
    assert not status["unread"]
    shown = {(t["topic"], one["partition"]) for t in status["topics"] for one in t["partitions"]}
    assert len(shown) == 9
    assert all(share.holds(number) for _, number in shown)
    assert all(one["lag"] == 0 for topic in status["topics"] for one in topic["partitions"])
    doctor = json.loads(deployment.run.run_sluice("doctor", "--json"))
    assert any("exist once per database" in one["problem"] for one in doctor["findings"])
    foreign = f"deposits{deployment.topic_suffix}:{2 - share.number}:0"
    code, errors = run_any(deployment, "trace", foreign)
    assert code != 0
    assert f"SLUICE_PARTITION_SHARE={PartitionShare(3 - share.number, 2)}" in errors


def wait_for(process: RunningProcess, text: str) -> None:
    wait_until(
        lambda: text in process.log.read_text(), timeout_seconds=90, what=f"{process.name} logs {text!r}"
    )


def has_ended(process: RunningProcess) -> bool:
    return process.exit_code is not None


def run_any(deployment: Deployment, *words: str) -> tuple[int, str]:
    found = deployment.run.sluice(*words)
    return found.returncode, found.stderr.decode()


@pytest.mark.matrix
def test_added_partitions_are_refused_until_each_installation_accepts_them(
    make_deployment: MakeDeployment,
) -> None:
    pair = make_pair(make_deployment, "confluent")
    first = pair[0]
    for one in pair:
        one.run.start_worker()
        one.run.start_bridge()
    first.produce(ledger(EVENTS))
    for one in pair:
        one.wait_settled(timeout_seconds=120)
    raise_partitions(first, "withdrawals", 12)
    name = f"withdrawals{first.topic_suffix}"
    for one in pair:
        wait_for(one.run.processes[-1], "partitions were added to the topic")
    first.produce(ledger(EVENTS, first=EVENTS))
    for one in pair:
        one.run.run_sluice("accept", name, "--reason", "twice the load", "--yes")
    for one in pair:
        one.wait_settled(timeout_seconds=120)
        complaints = one.complaints(one.tables())
        assert not complaints, "\n".join(complaints[:20])
    assert registered(first)["withdrawals"] == list(range(0, 12, 2))
    rows = [one.rows(one.tables()[0]) for one in pair]
    assert not rows[0].keys() & rows[1].keys(), "the partitions of an account changed, its database did not"


def test_a_number_of_partitions_that_the_share_does_not_divide_is_refused(
    make_deployment: MakeDeployment,
) -> None:
    first, _ = make_pair(make_deployment, "confluent")
    raise_partitions(first, "withdrawals", 7)
    with pytest.raises(InstallationRefused, match="7 partitions, and 2 does not divide this number"):
        initialise(first.urls, first.registry, share=first.share, partitions=6)
    bridge = first.run.start_bridge()
    wait_until(lambda: bridge.exit_code is not None, timeout_seconds=60, what="the bridge ends")
    assert bridge.exit_code == 2
    assert "2 does not divide this number" in bridge.log.read_text()


def test_a_process_with_another_share_refuses_to_start(make_deployment: MakeDeployment) -> None:
    first, _ = make_pair(make_deployment, "confluent")
    first.run.environment["SLUICE_PARTITION_SHARE"] = "2/2"  # type: ignore[index]
    for process in (first.run.start_bridge(), first.run.start_worker(), first.run.start_beat()):
        wait_for(process, "SLUICE_PARTITION_SHARE is 2/2, but the installation")
        wait_until(partial(has_ended, process), timeout_seconds=60, what="the process ends")
    code, errors = run_any(first, "status")
    assert code != 0
    assert "was made with the share 1/2" in errors
