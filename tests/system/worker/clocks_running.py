"""Starts processes with wrong clocks, and asserts that they still work."""

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import create_engine

from examples.shop.generate import generate
from sluice.db.admin.totals import read_outgoing
from sluice.tasks.api import Emit
from sluice.tasks.outbox.emit import emit
from sluice.testing.servers.deployment import Deployment
from tests.db.admin.leaving import insert_call
from tests.harness.clocks import WallClock, clock_of
from tests.system.faults.load import assert_equals_the_oracle

EFFECT = "capture_payment"


def start_with_clocks(deployment: Deployment, offsets: Mapping[str, float]) -> dict[str, WallClock]:
    """Starts bridge, worker, relay and beat. `offsets` maps process → seconds by which its clock is ahead."""
    run = deployment.run
    starts = {
        "bridge": run.start_bridge,
        "worker": run.start_worker,
        "relay": run.start_relay,
        "beat": run.start_beat,
    }
    clocks = {}
    for name, start in starts.items():
        clocks[name] = WallClock(Path(run.folder), name, offsets.get(name, 0.0))
        with clock_of(run, clocks[name]):
            start()
    return clocks


def assert_events_are_applied(deployment: Deployment, *, seed: int) -> None:
    """Produces events. Asserts that they are applied, and that their outgoing events are sent."""
    deployment.produce(generate("orders", count=100, seed=seed))
    deployment.wait_settled()
    deployment.wait_sent()
    assert_equals_the_oracle(deployment)


def assert_beat_works(deployment: Deployment, *, number: int) -> None:
    """Asserts that beat starts the relay without a wake-up, and that maintenance ends an expired claim.

    Afterwards the tables differ from the oracle, which has neither the event nor the claim.
    """
    engine = create_engine(deployment.urls.database_url)
    with engine.begin() as connection:
        emit(connection, [Emit("order-events", f"clock {number}", "x", number)])
    engine.dispose()
    key = f"{EFFECT}:clock {number}"
    insert_call(deployment.session, key, "running", effect=EFFECT, claimed_until="2020-01-01")
    deployment.wait_until(
        lambda: not read_outgoing(deployment.session), timeout_seconds=60, what="beat runs the relay"
    )
    deployment.wait_until(
        lambda: not deployment.calls(EFFECT)["running"], timeout_seconds=60, what="the expired claim ends"
    )
