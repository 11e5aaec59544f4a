"""Scenario 7: all faults at random, from a printed seed; then a checker asks what is left behind."""

import random
import time
from collections import Counter
from collections.abc import Iterator

from sluice.stack import Stack
from tests.demo.scenarios import Say
from tests.demo.verdict import ScenarioResult
from tests.harness.deployment import Deployment
from tests.harness.providers import Providers
from tests.harness.storm import Storm, mixed_events

SEED = 7
STORM_SECONDS = 20.0
EVENTS_PER_TURN = 150
PATIENCE_SECONDS = 240.0  # leases and back-off of calls that were cut off


def play_7(deployment: Deployment, providers: Providers, stack: Stack, say: Say) -> Iterator[ScenarioResult]:
    """At least once everywhere, every repeat harmless: nothing lost, nothing doubled, whatever is killed."""
    say(f"7: for {STORM_SECONDS:.0f} seconds processes and services are killed at random; seed {SEED}")
    deployment.run.stop_all()
    storm = Storm(deployment, providers, stack, random.Random(SEED))
    until, turn = time.monotonic() + STORM_SECONDS, 0
    while time.monotonic() < until:
        turn += 1
        deployment.produce(
            record._replace(key=f"storm-{turn}-{record.key}")
            for record in mixed_events(EVENTS_PER_TURN, seed=SEED * 1_000 + turn)
        )
        storm.turn()
    harms = ", ".join(f"{count} × {name}" for name, count in sorted(storm.done.items()))
    say(f"7: {harms}; now everything may come to rest")
    providers.payments.set_faults()
    deployment.wait_settled(timeout_seconds=PATIENCE_SECONDS)
    deployment.wait_sent(timeout_seconds=PATIENCE_SECONDS)
    deployment.session.command(
        "UPDATE sluice.executed_side_effects SET claimed_until = now() WHERE state = 'running'"
    )
    deployment.wait_called(timeout_seconds=PATIENCE_SECONDS)
    unlisted = _orders(deployment) - len(_mails(providers)) - deployment.calls("send_email")["uncertain"]
    yield ScenarioResult("7", "e-mails that are missing and not listed as uncertain", 0, max(0, unlisted))
    deployment.run.run_sluice("effects", "reconcile", "--all", "--reason", "after the storm")
    deployment.wait_called(timeout_seconds=PATIENCE_SECONDS)
    yield ScenarioResult(
        "7",
        f"{turn} turns of a storm: everything beside the fold",
        [],
        deployment.complaints(deployment.tables()),
    )
    captured = Counter(capture.reference for capture in providers.payments.captures())
    yield ScenarioResult("7", "payments captured twice", 0, sum(count > 1 for count in captured.values()))
    per_order = dict(Counter(_mails(providers).values()))
    yield ScenarioResult("7", "e-mails per order, after reconciling", {1: _orders(deployment)}, per_order)


def _orders(deployment: Deployment) -> int:
    return sum(deployment.calls("send_email").values())


def _mails(providers: Providers) -> Counter[str | None]:
    return Counter(message.key for message in providers.mail.messages())
