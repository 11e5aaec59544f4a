"""`sluice dlq`, `sluice audit` and `sluice verify` on real services, while events are applied."""

import itertools
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from examples.shop.generate import OutgoingRecord, event, generate
from examples.shop.tables import stock
from sluice.testing.servers.deployment import Deployment
from tests.harness.storm import mixed_events
from tests.system.cli.test_cli import document, sluice
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import assert_equals_the_oracle

WHY = ("--reason", "test")
POISONED = "product-3"
# The limit of the constraint for each product. The sums of the generated events stay far below this limit.
SHELF = 1_000_000


@pytest.fixture
def deployment(make_deployment: MakeDeployment) -> Deployment:
    """Returns a deployment with bridge, worker, relay and beat. Postgres refuses a stock of SHELF or more."""
    made = make_deployment()
    made.session.command(f"ALTER TABLE public.stock ADD CONSTRAINT shelf CHECK (on_hand < {SHELF})")
    made.run.start_bridge()
    made.run.start_worker(made.queues())
    made.run.start_relay()
    made.run.start_beat()
    return made


def received(key: str, quantity: int, number: int) -> OutgoingRecord:
    made = event(random.Random(f"{key} {number}"), "stock.received", {"quantity": quantity}, number=number)
    return OutgoingRecord("stock-updates", key, made)


def poisoned_stock(count: int) -> list[OutgoingRecord]:
    """Returns stock events. Postgres refuses the middle event. Events of the same product follow later."""
    made = list(generate("stock", count=count, seed=7, keys=5))
    middle = count // 2
    return [*made[:middle], received(POISONED, SHELF, 1), *made[middle:]]


def failed(deployment: Deployment, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = document(sluice(deployment, "dlq", "ls", *words, "--json"))["letters"]
    return found


def audits(deployment: Deployment) -> Counter[str]:
    shown = document(sluice(deployment, "audit", "ls", "--json"))["audit"]
    assert all((one["reason"], "@" in one["actor"]) == ("test", True) for one in shown)
    return Counter(one["verb"] for one in shown)


def verified(deployment: Deployment, *, exit_code: int = 0) -> Any:
    done = sluice(deployment, "verify", "--json")
    assert done.returncode == exit_code, done.stdout.decode() + done.stderr.decode()
    return document(done)


def test_a_failed_event_is_listed_and_redriven_while_other_events_are_applied(deployment: Deployment) -> None:
    produced = poisoned_stock(200)
    behind = sum(record.key == POISONED for record in produced[101:])
    deployment.produce([*produced, *generate("payments", count=100, seed=1)])
    deployment.wait_settled()
    assert deployment.outcomes() == Counter(applied=300 - behind, dead=1, waiting=behind)

    [letter] = failed(deployment)
    assert (letter["entity_key"], letter["error_class"], letter["behind"]) == (
        POISONED,
        "CheckViolation",
        behind,
    )
    assert len(failed(deployment, "--state", "waiting")) == behind
    whole = document(sluice(deployment, "dlq", "show", str(letter["id"]), "--json"))
    assert whole["value"]["data"] == {"quantity": SHELF}
    assert "shelf" in whole["parked"]
    assert document(sluice(deployment, "status", "--json"))["parked_entities"] == 1
    assert b"parked entities: 1; see `sluice dlq ls`" in sluice(deployment, "status").stdout
    assert "Parked entities: 1" in sluice(deployment, "doctor").stdout.decode()
    found = verified(deployment)
    assert (found["ok"], found["parked_entities"]) == (True, 1)

    blocked = sluice(deployment, "dlq", "redrive", "--all", *WHY, "--yes")
    assert blocked.returncode == 1
    assert f"stock/{POISONED}: 1 dead; blocked by " in blocked.stdout.decode()

    deployment.session.command("ALTER TABLE public.stock DROP CONSTRAINT shelf")
    with ThreadPoolExecutor(1) as pool:
        redriving = pool.submit(sluice, deployment, "dlq", "redrive", "--all", *WHY, "--yes", "--json")
        for number in itertools.count(2):
            deployment.produce(mixed_events(300, seed=number))
            deployment.produce([received(POISONED, 1, number)])
            if redriving.done():
                break
        done = redriving.result()
    [one] = document(done)["redriven"]
    assert one["unparked"]
    assert one["outcomes"]["applied"] > behind
    deployment.wait_settled()
    assert_equals_the_oracle(deployment)
    assert failed(deployment, "--topic", f"stock-updates{deployment.topic_suffix}") == []
    assert document(sluice(deployment, "status", "--json"))["parked_entities"] == 0
    assert audits(deployment) == {"dlq redrive": 2}
    assert verified(deployment)["ok"]


def test_dropping_a_failed_event_applies_the_events_behind_it(deployment: Deployment) -> None:
    produced = [received("p", 10, 1), received("p", SHELF, 2), received("p", 5, 3), received("p", 6, 4)]
    deployment.produce(produced)
    deployment.wait_settled()
    [letter] = failed(deployment, "--key", "p")
    waiting = failed(deployment, "--state", "waiting")
    refused = sluice(deployment, "dlq", "drop", str(waiting[0]["id"]), *WHY, "--yes")
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"is not the first letter of its entity" in refused.stderr
    assert b"pass --yes" in sluice(deployment, "dlq", "drop", str(letter["id"]), *WHY).stderr
    dropped = document(sluice(deployment, "dlq", "drop", str(letter["id"]), *WHY, "--yes", "--json"))
    assert dropped["redriven"][0]["outcomes"] == {"applied": 2}
    assert deployment.rows(stock)["p"]["on_hand"] == 21
    deployment.produce([received("p", 1, 5)])
    deployment.wait_settled()
    assert deployment.rows(stock)["p"]["on_hand"] == 22
    assert audits(deployment) == {"dlq drop": 1}
    assert verified(deployment)["ok"]


def test_a_conflict_is_resolved_and_a_dead_event_is_exported_and_sent_again(deployment: Deployment) -> None:
    bad = received("p", SHELF, 1)
    assert bad.value is not None
    other = {**received("q", 2, 2).value, "event_id": "same"}  # type: ignore[dict-item]
    deployment.produce(
        [
            OutgoingRecord("stock-updates", "q", {**other, "data": {"quantity": 1}}),
            OutgoingRecord("stock-updates", "q", other),
            bad,
            OutgoingRecord("stock-updates", "r", b"\xff{"),  # type: ignore[arg-type]
        ]
    )
    deployment.wait_settled()
    letters = {letter["entity_key"]: letter for letter in failed(deployment)}
    assert {key: letter["outcome"] for key, letter in letters.items()} == {
        "p": "dead",
        "q": "conflict",
        "r": "dead",
    }
    conflict, dead = str(letters["q"]["id"]), str(letters["p"]["id"])
    resolved = document(sluice(deployment, "dlq", "resolve", conflict, dead, *WHY, "--json"))
    assert (resolved["resolved"], resolved["left"]) == ([int(conflict)], [int(dead)])

    lines = sluice(deployment, "dlq", "export", "--all", "--state", "dead").stdout.splitlines()
    exported = {json.loads(line).get("key"): json.loads(line) for line in lines}
    assert exported["p"]["value"] == bad.value
    assert exported[None]["value_base64"] == "/3s="
    # The constraint was dropped, so the redriven event is applied. The copy that was sent is a duplicate.
    deployment.session.command("ALTER TABLE public.stock DROP CONSTRAINT shelf")
    redriven = document(sluice(deployment, "dlq", "redrive", dead, *WHY, "--yes", "--json"))
    assert redriven["redriven"][0]["outcomes"] == {"applied": 1}
    sent = sluice(deployment, "dlq", "export", dead)
    again = document(sluice(deployment, "send", "-", "--json", given=sent.stdout))
    assert again["acknowledged"] == 1
    deployment.wait_settled()
    assert deployment.outcomes() == {"applied": 2, "conflict": 1, "dead": 1, "duplicate": 1}
    assert deployment.rows(stock)["p"]["on_hand"] == SHELF
    assert audits(deployment) == {"dlq resolve": 1, "dlq redrive": 1}


def test_verify_finds_counters_that_were_changed_by_hand(deployment: Deployment) -> None:
    deployment.produce(mixed_events(600, seed=3))
    # `verify` must also find no difference while some events are not applied yet.
    assert verified(deployment)["ok"]
    deployment.wait_settled()
    found = verified(deployment)
    assert sum(one["records"] for one in found["partitions"]) == sum(deployment.outcomes().values()) > 600
    assert {one["verdict"] for one in found["partitions"]} == {"equal"}
    assert b"counters and log agree" in sluice(deployment, "verify").stdout
    for change in ("+ 1", "- 2"):
        deployment.session.command(
            f"UPDATE sluice.lane_offsets SET applied = applied {change} WHERE (topic, partition, queue) ="
            " (SELECT topic, partition, queue FROM sluice.lane_offsets WHERE applied > 2"
            " ORDER BY 1, 2, 3 LIMIT 1)"
        )
        found = verified(deployment, exit_code=1)
        [wrong] = [one for one in found["partitions"] if one["verdict"] == "mismatch"]
        assert abs(wrong["counted"] - wrong["records"]) == 1
    assert b"partitions whose counters differ from the log: 1" in sluice(deployment, "verify").stdout


def test_verify_reports_deleted_records_and_succeeds(deployment: Deployment) -> None:
    topic = f"payments{deployment.topic_suffix}"
    deployment.produce(generate("payments", count=100, seed=1))
    deployment.wait_settled()
    admin = KafkaAdminClient(bootstrap_servers=deployment.urls.kafka_bootstrap_servers)
    admin.delete_records({TopicPartition(topic, 0): 5})
    admin.close()
    found = {(one["topic"], one["partition"]): one for one in verified(deployment)["partitions"]}
    assert found[topic, 0]["said"] == "records below 5 are deleted"
    assert found[topic, 0]["verdict"] == "uncountable"
    assert found[topic, 1]["verdict"] == "equal"
