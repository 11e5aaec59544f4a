"""Scenarios 3 and 6, about outgoing events and calls. Each produces events, causes faults, checks results."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from examples.shop import tables
from examples.shop.generate import OutgoingRecord, event, generate
from examples.shop.outside.faults import Fault
from sluice.db.admin.totals import read_outgoing
from tests.demo.report import Check, count, counts, each
from tests.demo.stage import FAULT_DEADLINE_SECONDS, Stage
from tests.harness.providers import Providers

LOST_MAILS = ("cust-1@example.org", "cust-2@example.org")


def play_3(stage: Stage) -> Iterator[Check]:
    """Dual write: each stored order has its outgoing event in Kafka, although Kafka and a relay fail."""
    deployment, run = stage.deployment, stage.deployment.run
    stage.do("Kafka is stopped before the orders are committed.")
    orders = stage.sizes.orders
    stage.read_on()
    queues = deployment.queues("order")
    deployment.produce(generate("orders", count=orders, seed=4))
    deployment.wait_until(
        lambda: sum(deployment.redis.llen(queue) for queue in queues) > 0,
        timeout_seconds=FAULT_DEADLINE_SECONDS,
        what="orders wait in Redis",
    )
    stage.stack.stop("kafka")
    run.start_worker(queues, name="worker-order")
    deployment.wait_until(
        lambda: len(read_outgoing(deployment.session)) > 0,
        timeout_seconds=FAULT_DEADLINE_SECONDS,
        what="orders are committed while Kafka is stopped",
    )
    stage.do("Kafka is started again. A relay is killed after it sent an event, before it deletes the row.")
    stage.stack.start("kafka")
    beats = [run.start_beat(name=f"beat-{number}") for number in (1, 2)]
    doomed = run.start_relay(name="relay-doomed", faults="relay.acknowledged:1:kill")
    yield stage.wait_killed(doomed, "after it sent an event, before it deletes the row")
    stage.do("Three relays and two beats run at the same time.")
    for number in (1, 2, 3):
        run.start_relay(name=f"relay-{number}")
    deployment.wait_settled()
    deployment.wait_sent()
    created = [event_id for topic, _, event_id in deployment.sent() if topic == "order-events"]
    yield Check("All orders are stored: {}.", orders, len(deployment.rows(tables.orders)), count("order"))
    yield Check("Each order has one order.created event: {}.", orders, len(created), count("event"))
    leading = sum("this beat leads" in beat.log.read_text() for beat in beats)
    yield Check("Only one of the two beats schedules: {}.", 1, leading, count("leading beat"))


def play_6(stage: Stage) -> Iterator[Check]:
    """Side effects: one capture per payment. Sluice asks the mail server about e-mails that may be sent."""
    deployment, run, captures = stage.deployment, stage.deployment.run, stage.sizes.captures
    stage.do("The effects worker is killed before a call, during a call, and after the answer.")
    payments = stage.providers.payments
    stage.serve("payment")
    stage.serve("order")
    stage.send_on()
    stage.providers.mail.set_faults(
        Fault("before", "drop", times=1, matching=LOST_MAILS[0]),
        Fault("after", "drop", times=1, matching=LOST_MAILS[1]),
    )
    references = [record.key for record in generate("captures", count=captures, seed=6)]
    deployment.produce(generate("captures", count=captures, seed=6))
    deployment.produce(_order(f"order-lost-{n}", mail) for n, mail in enumerate(LOST_MAILS))
    deployment.wait_settled()
    for point, when in (
        ("claimed", "before a call"),
        ("answered", "after the answer, before it stores the answer"),
    ):
        doomed = run.start_effects(name=f"effects-{point}", pool="solo", faults=f"effect.{point}:3:kill")
        yield stage.wait_killed(doomed, when)
    before = len(payments.captures())
    payments.set_faults(Fault("after", "delay", seconds=4.0, times=1))
    doomed = run.start_effects(name="effects-under-way", pool="solo")
    deployment.wait_until(
        lambda: len(payments.captures()) > before and not payments.faults_left(),
        timeout_seconds=FAULT_DEADLINE_SECONDS,
        what="the provider has captured a payment and delays its answer",
    )
    doomed.kill()
    stage.do("The provider delays answers, drops connections after a capture, and fails before a capture.")
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
    yield Check(
        "The provider captured each payment once: {}.",
        {1: captures},
        _histogram(captured[reference] for reference in references),
        each("capture", "payment"),
    )
    states = dict(deployment.calls("capture_payment"))
    yield Check("The ledger lists these calls: {}.", {"succeeded": captures}, states, counts)
    yield from _reconcile(stage)


def _reconcile(stage: Stage) -> Iterator[Check]:
    """The mail server has no idempotency keys, so Sluice repeats no e-mail before it has asked the server."""
    deployment, providers = stage.deployment, stage.providers
    stage.do("An e-mail whose connection was dropped is not repeated until the mail server was asked.")
    orders = len(deployment.rows(tables.orders))
    states, sent = deployment.calls("send_email"), _mails_per_order(providers)
    twice = sum(number > 1 for number in sent.values())
    yield Check("No order has two e-mails.", 0, twice, count("order"))
    unlisted = max(0, orders - len(sent) - states["uncertain"])
    yield Check("Each order without an e-mail is listed as uncertain.", 0, unlisted, count("unlisted e-mail"))
    uncertain = states["uncertain"]
    yield Check(
        "The e-mails whose connections were dropped are uncertain: 2 or more.",
        True,
        uncertain >= 2,
        lambda _: count("uncertain e-mail")(uncertain),
    )
    deployment.run.run_sluice("effects", "reconcile", "--all", "--reason", "the demo asks the mail server")
    deployment.wait_called()
    found = _histogram(_mails_per_order(providers).values())
    yield Check("After reconciling, the mail server has {}.", {1: orders}, found, each("e-mail", "order"))


def _mails_per_order(providers: Providers) -> Counter[str | None]:
    return Counter(message.key for message in providers.mail.messages())


def _histogram(counts: Iterable[int]) -> dict[int, int]:
    return dict(Counter(counts))


def _order(order_id: str, email: str) -> OutgoingRecord:
    data: dict[str, Any] = {"customer_id": email.partition("@")[0], "email": email, "total_cents": 25_000}
    return OutgoingRecord("orders", order_id, event(random.Random(order_id), "order.placed", data))
