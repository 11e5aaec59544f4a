"""Calls at real providers: one capture per payment whichever process ends; unknown outcomes are asked for."""

import signal
from collections import Counter

import pytest

from examples.shop.generate import OutgoingRecord, generate
from examples.shop.outside.faults import Fault
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.harness.providers import Providers
from tests.system.conftest import MakeDeployment
from tests.waiting import wait_until

PAYMENTS = 40


@pytest.fixture
def deployment(make_deployment: MakeDeployment, providers: Providers) -> Deployment:
    """Everything runs but the worker that makes calls."""
    made = make_deployment(**providers.environ())
    made.run.start_bridge()
    made.run.start_worker(made.queues("payment", "order"))
    made.run.start_relay()
    made.run.start_beat()
    return made


def approve(deployment: Deployment, count: int = PAYMENTS, *, seed: int = 1) -> set[str]:
    """Payments to capture; their references."""
    records = list(generate("captures", count=count, seed=seed))
    deployment.produce(records)
    deployment.wait_settled()
    return {record.key for record in records}


def assert_one_capture_each(providers: Providers, references: set[str]) -> None:
    captured = Counter(capture.reference for capture in providers.payments.captures())
    assert captured == dict.fromkeys(references, 1)


def end_leases(deployment: Deployment) -> None:
    """As if their 40 seconds were over, so that the test need not wait."""
    deployment.session.command(
        "UPDATE sluice.executed_side_effects SET claimed_until = now() WHERE state = 'running'"
    )


def wait_called(deployment: Deployment) -> None:
    """Leases of the dead are ended meanwhile."""

    def ended() -> bool:
        # In one look: a call whose lease ends goes from running to pending.
        calls = deployment.calls()
        return not calls["pending"] and not calls["running"]

    deployment.wait_until(
        ended,
        timeout_seconds=120,
        what=f"all calls have ended: {deployment.calls()}",
    )


@pytest.mark.parametrize("point", ["effect.claimed:5", "effect.answered:5", "effect.stored:5"])
def test_an_effect_worker_killed_at_any_point_captures_once(
    deployment: Deployment, providers: Providers, point: str
) -> None:
    doomed = deployment.run.start_effects(pool="solo", faults=f"{point}:kill")
    references = approve(deployment)
    deployment.wait_until(lambda: doomed.exit_code == -9, timeout_seconds=60, what=f"killed at {point}")
    end_leases(deployment)
    deployment.run.start_effects()
    wait_called(deployment)
    assert deployment.calls() == {"succeeded": PAYMENTS}
    assert_one_capture_each(providers, references)


def test_an_effect_worker_killed_with_the_request_under_way_captures_once(
    deployment: Deployment, providers: Providers
) -> None:
    # The provider has captured and is about to answer when the caller dies.
    providers.payments.set_faults(Fault("after", "delay", seconds=3.0, times=1))
    doomed = deployment.run.start_effects(pool="solo")
    references = approve(deployment, 5)
    wait_until(lambda: providers.payments.captures(), timeout_seconds=60, what="the provider has captured")
    doomed.kill()
    end_leases(deployment)
    deployment.run.start_effects()
    wait_called(deployment)
    assert deployment.calls() == {"succeeded": 5}
    assert_one_capture_each(providers, references)


def test_a_provider_that_delays_fails_and_drops_captures_once(
    deployment: Deployment, providers: Providers
) -> None:
    providers.payments.set_faults(
        Fault("after", "delay", seconds=8.0, times=2),
        Fault("before", "error", status=500, times=4),
        Fault("after", "error", status=500, times=1, matching="pay-7"),
        Fault("before", "drop", times=4),
        Fault("after", "drop", times=4),
    )
    deployment.run.start_effects()
    references = approve(deployment)
    # A stored 500 is given again for its key until the provider forgets it: the attempts are used up.
    deployment.wait_until(
        lambda: deployment.calls()["succeeded"] >= PAYMENTS - 1,
        timeout_seconds=120,
        what="all but the one whose 500 is stored have succeeded",
    )
    assert_one_capture_each(providers, references)


def test_redis_wiped_with_calls_dispatched_costs_nothing(
    deployment: Deployment, providers: Providers
) -> None:
    references = approve(deployment)
    deployment.wait_until(
        lambda: deployment.redis.llen("effects") > 0, timeout_seconds=60, what="calls are dispatched"
    )
    deployment.wipe_redis()
    # As if half a minute had passed, after which a message counts as lost.
    deployment.session.command("UPDATE sluice.executed_side_effects SET dispatched_at = NULL")
    deployment.run.start_effects()
    wait_called(deployment)
    assert deployment.calls() == {"succeeded": PAYMENTS}
    assert_one_capture_each(providers, references)


def test_an_email_nobody_knows_of_is_uncertain_and_not_sent_again(
    deployment: Deployment, providers: Providers
) -> None:
    providers.mail.set_faults(
        Fault("before", "drop", times=1, matching="cust-1@example.org"),
        Fault("after", "drop", times=1, matching="cust-2@example.org"),
    )
    deployment.run.start_effects()
    deployment.produce(
        [_order("order-1", "cust-1"), _order("order-2", "cust-2"), _order("order-3", "cust-3")]
    )
    deployment.wait_settled()
    wait_called(deployment)
    assert deployment.calls("send_email") == {"uncertain": 2, "succeeded": 1}
    received = sorted(to for message in providers.mail.messages() for to in message.to)
    assert received == ["cust-2@example.org", "cust-3@example.org"]


def test_paused_effects_call_nobody_until_they_are_resumed(
    deployment: Deployment, providers: Providers
) -> None:
    session = deployment.session
    session.command(
        "INSERT INTO sluice.switches (name, actor, reason) VALUES ('effects paused', 'me', 'why')"
    )
    effects = deployment.run.start_effects()
    references = approve(deployment, 10)
    _wait_ready(effects)
    deployment.wait_sent()
    assert deployment.calls() == {"pending": 10}
    assert not providers.payments.requests()
    session.command("DELETE FROM sluice.switches")
    wait_called(deployment)
    assert_one_capture_each(providers, references)


def test_a_call_whose_worker_slept_past_its_lease_is_made_once(
    deployment: Deployment, providers: Providers
) -> None:
    asleep = deployment.run.start_effects(pool="solo", faults="effect.answered:3:stop")
    references = approve(deployment, 10)
    deployment.wait_until(
        lambda: len(providers.payments.captures()) >= 3 and deployment.calls()["running"] == 1,
        timeout_seconds=60,
        what="the third is captured and its worker asleep",
    )
    end_leases(deployment)
    deployment.run.start_effects(name="awake")
    wait_called(deployment)
    asleep.signal(signal.SIGCONT)
    assert deployment.calls() == {"succeeded": 10}
    assert_one_capture_each(providers, references)


def _order(order_id: str, customer: str) -> OutgoingRecord:
    data = {"customer_id": customer, "email": f"{customer}@example.org", "total_cents": 100}
    event = {"event_id": f"placed-{order_id}", "type": "order.placed", "data": data}
    return OutgoingRecord("orders", order_id, event)


def _wait_ready(process: RunningProcess) -> None:
    wait_until(lambda: "ready." in process.log.read_text(), timeout_seconds=60, what=f"{process.name} is up")
