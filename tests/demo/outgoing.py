"""Scenarios of what leaves: 3 and 6. Each produces, does harm, waits, and looks."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from examples.shop import tables
from examples.shop.generate import OutgoingRecord, event, generate
from examples.shop.outside.faults import Fault
from sluice.db.admin.totals import read_outgoing
from sluice.stack import Stack
from tests.demo.scenarios import FAULT_DEADLINE_SECONDS, Say
from tests.demo.verdict import ScenarioResult
from tests.harness.deployment import Deployment
from tests.harness.local_run import RunningProcess
from tests.harness.providers import Providers

ORDERS, CAPTURES = 200, 60
LOST_MAILS = ("cust-1@example.org", "cust-2@example.org")


def play_3(deployment: Deployment, stack: Stack, say: Say) -> Iterator[ScenarioResult]:
    """The dual write: an order and its event are one decision, whoever is away or killed."""
    run = deployment.run
    say("3: Kafka is stopped before the rows are committed")
    queues = deployment.queues("order")
    deployment.produce(generate("orders", count=ORDERS, seed=4))
    deployment.wait_until(
        lambda: sum(deployment.redis.llen(queue) for queue in queues) > 0,
        timeout_seconds=FAULT_DEADLINE_SECONDS,
        what="orders wait in Redis",
    )
    stack.stop("kafka")
    run.start_worker(queues, name="worker-orders")
    deployment.wait_until(
        lambda: len(read_outgoing(deployment.session)) > 0,
        timeout_seconds=FAULT_DEADLINE_SECONDS,
        what="orders are committed while Kafka is away",
    )
    say("3: Kafka comes back; a relay is killed after the produce, before it notes it")
    stack.start("kafka")
    beats = [run.start_beat(name=f"beat-{number}") for number in (1, 2)]
    doomed = run.start_relay(name="relay-doomed", faults="relay.acknowledged:1:kill")
    yield _killed(deployment, "3", doomed, "after the produce, before it notes it")
    say("3: three relays and two beats at once")
    for number in (1, 2, 3):
        run.start_relay(name=f"relay-{number}")
    deployment.wait_settled()
    deployment.wait_sent()
    created = [event_id for topic, _, event_id in deployment.sent() if topic == "order-events"]
    yield ScenarioResult("3", "orders", ORDERS, len(deployment.rows(tables.orders)))
    yield ScenarioResult("3", "their order.created, each at least once, one id each", ORDERS, len(created))
    yield ScenarioResult(
        "3", "of two beats one beats", 1, sum("this beat leads" in b.log.read_text() for b in beats)
    )


def play_6(deployment: Deployment, providers: Providers, say: Say) -> Iterator[ScenarioResult]:
    """Side effects: one capture per payment, and e-mails nobody knows of are asked about."""
    say("6: the effect worker is killed before the call, with the request under way, after the answer")
    payments, run = providers.payments, deployment.run
    providers.mail.set_faults(
        Fault("before", "drop", times=1, matching=LOST_MAILS[0]),
        Fault("after", "drop", times=1, matching=LOST_MAILS[1]),
    )
    references = [record.key for record in generate("captures", count=CAPTURES, seed=6)]
    deployment.produce(generate("captures", count=CAPTURES, seed=6))
    deployment.produce(_order(f"order-lost-{n}", mail) for n, mail in enumerate(LOST_MAILS))
    deployment.wait_settled()
    for point, harm in (
        ("claimed", "before the call"),
        ("answered", "after the answer, before it is stored"),
    ):
        doomed = run.start_effects(name=f"effects-{point}", pool="solo", faults=f"effect.{point}:3:kill")
        yield _killed(deployment, "6", doomed, harm)
    before = len(payments.captures())
    payments.set_faults(Fault("after", "delay", seconds=4.0, times=1))
    doomed = run.start_effects(name="effects-under-way", pool="solo")
    deployment.wait_until(
        lambda: len(payments.captures()) > before and not payments.faults_left(),
        timeout_seconds=FAULT_DEADLINE_SECONDS,
        what="the provider has captured and is slow to say so",
    )
    doomed.kill()
    say("6: their leases are ended; the provider accepts and then fails, drops or times out")
    payments.set_faults(
        Fault("after", "delay", seconds=8.0, times=1),
        Fault("after", "drop", times=3),
        Fault("before", "error", times=3),
    )
    deployment.session.command(
        "UPDATE sluice.executed_side_effects SET claimed_until = now() WHERE state = 'running'"
    )
    run.start_effects()
    deployment.wait_called()
    captured = Counter(capture.reference for capture in payments.captures())
    yield ScenarioResult(
        "6", "captures, by payment", {1: CAPTURES}, _histogram(captured[r] for r in references)
    )
    states = deployment.calls("capture_payment")
    yield ScenarioResult("6", "captures, as the ledger knows them", {"succeeded": CAPTURES}, dict(states))
    yield from _reconcile(deployment, providers, say)


def _reconcile(deployment: Deployment, providers: Providers, say: Say) -> Iterator[ScenarioResult]:
    """An e-mail server knows no keys: what was cut off is not repeated, but asked about."""
    say("6: e-mails that were cut off, before or after the server had them: nobody knows which; it is asked")
    orders = len(deployment.rows(tables.orders))
    states, sent = deployment.calls("send_email"), _mails_per_order(providers)
    yield ScenarioResult("6", "orders with two e-mails", 0, sum(count > 1 for count in sent.values()))
    unlisted = max(0, orders - len(sent) - states["uncertain"])
    yield ScenarioResult("6", "orders without one, and not listed as uncertain", 0, unlisted)
    yield ScenarioResult(
        "6", "cut off on purpose, or their worker killed: uncertain", True, states["uncertain"] >= 2
    )
    deployment.run.run_sluice("effects", "reconcile", "--all", "--reason", "the demo asks the mail log")
    deployment.wait_called()
    yield ScenarioResult(
        "6",
        "e-mails per order after reconciling",
        {1: orders},
        _histogram(_mails_per_order(providers).values()),
    )


def _mails_per_order(providers: Providers) -> Counter[str | None]:
    return Counter(message.key for message in providers.mail.messages())


def _killed(deployment: Deployment, scenario: str, doomed: RunningProcess, harm: str) -> ScenarioResult:
    deployment.wait_until(
        lambda: doomed.exit_code is not None,
        timeout_seconds=FAULT_DEADLINE_SECONDS,
        what=f"the fault point kills the {doomed.name}",
    )
    return ScenarioResult(
        scenario, f"kill -9 of the {doomed.name.partition('-')[0]} {harm}", -9, doomed.exit_code
    )


def _histogram(counts: Iterable[int]) -> dict[int, int]:
    return dict(Counter(counts))


def _order(order_id: str, email: str) -> OutgoingRecord:
    data: dict[str, Any] = {"customer_id": email.partition("@")[0], "email": email, "total_cents": 25_000}
    return OutgoingRecord("orders", order_id, event(random.Random(order_id), "order.placed", data))
