"""Calls to provider processes. Each payment is captured one time, and unknown outcomes are reported."""

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
    """Returns a deployment on which all processes run, except the worker that makes calls."""
    made = make_deployment(**providers.environ())
    made.run.start_bridge()
    made.run.start_worker(made.queues("payment", "order"))
    made.run.start_relay()
    made.run.start_beat()
    return made


def approve(deployment: Deployment, count: int = PAYMENTS, *, seed: int = 1) -> set[str]:
    """Produces payments to capture. Returns their references."""
    records = list(generate("captures", count=count, seed=seed))
    deployment.produce(records)
    deployment.wait_settled()
    return {record.key for record in records}


def assert_one_capture_each(providers: Providers, references: set[str]) -> None:
    captured = Counter(capture.reference for capture in providers.payments.captures())
    assert captured == dict.fromkeys(references, 1)


def end_leases(deployment: Deployment) -> None:
    """Ends the leases of all running calls. A lease normally ends after 40 seconds."""
    deployment.session.command(
        "UPDATE sluice.executed_side_effects SET claimed_until = now() WHERE state = 'running'"
    )


def wait_called(deployment: Deployment) -> None:
    """Waits until no call is pending or running."""

    def ended() -> bool:
        # One query for both states, because a call whose lease ends changes from running to pending.
        calls = deployment.calls()
        return not calls["pending"] and not calls["running"]

    deployment.wait_until(
        ended,
        timeout_seconds=120,
        what=f"all calls have ended: {deployment.calls()}",
    )


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("effect.claimed:5", marks=pytest.mark.matrix),
        "effect.answered:5",
        pytest.param("effect.stored:5", marks=pytest.mark.matrix),
    ],
)
def test_each_payment_is_captured_one_time_if_the_worker_is_killed_at_any_point(
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


def test_each_payment_is_captured_one_time_if_the_worker_is_killed_in_a_request(
    deployment: Deployment, providers: Providers
) -> None:
    # When the worker is killed, the provider has captured the payment but has not answered yet.
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


def test_each_payment_is_captured_one_time_by_a_faulty_provider(
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
    # For one payment, the provider has stored the answer 500 and repeats it at every attempt. So this call
    # fails.
    deployment.wait_until(
        lambda: deployment.calls()["succeeded"] >= PAYMENTS - 1,
        timeout_seconds=120,
        what="all calls except the call with the stored 500 have succeeded",
    )
    assert_one_capture_each(providers, references)


def test_each_payment_is_captured_one_time_although_redis_is_wiped(
    deployment: Deployment, providers: Providers
) -> None:
    references = approve(deployment)
    deployment.wait_until(
        lambda: deployment.redis.llen("effects") > 0, timeout_seconds=60, what="calls are dispatched"
    )
    deployment.wipe_redis()
    # With this change, the messages count as lost immediately, not only after half a minute.
    deployment.session.command("UPDATE sluice.executed_side_effects SET dispatched_at = NULL")
    deployment.run.start_effects()
    wait_called(deployment)
    assert deployment.calls() == {"succeeded": PAYMENTS}
    assert_one_capture_each(providers, references)


def test_an_email_with_unknown_outcome_is_uncertain_and_not_sent_again(
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


def test_paused_effects_make_no_call_until_they_are_resumed(
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


def test_a_call_is_made_one_time_if_its_worker_is_suspended_longer_than_the_lease(
    deployment: Deployment, providers: Providers
) -> None:
    asleep = deployment.run.start_effects(pool="solo", faults="effect.answered:3:stop")
    references = approve(deployment, 10)
    deployment.wait_until(
        lambda: len(providers.payments.captures()) >= 3 and deployment.calls()["running"] == 1,
        timeout_seconds=60,
        what="the third payment is captured and its worker is suspended",
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
    wait_until(
        lambda: "ready." in process.log.read_text(), timeout_seconds=60, what=f"{process.name} is ready"
    )
