"""Scenario 7: all faults at random, from a printed seed; then a checker asks what is left behind."""

import random
import time
from collections import Counter
from collections.abc import Iterator

from sluice.testing.servers.deployment import Deployment
from tests.demo.report import Check, count, differences, each
from tests.demo.stage import Stage
from tests.harness.providers import Providers
from tests.harness.storm import Storm, mixed_events

SEED = 7
STORM_SECONDS = 20.0
EVENTS_PER_TURN = 100
# A process does something before it is killed, and a fast machine does not produce events for minutes.
LEAST_TURN_SECONDS = 0.4
PATIENCE_SECONDS = 240.0  # leases and back-off of calls that were cut off


def play_7(stage: Stage) -> Iterator[Check]:
    """At least once everywhere, every repeat harmless: nothing lost, nothing doubled, whatever is killed."""
    deployment, providers = stage.deployment, stage.providers
    stage.do(f"For {STORM_SECONDS:.0f} seconds processes and servers are killed at random, from seed {SEED}.")
    deployment.run.stop_all()
    storm = Storm(deployment, providers, stage.stack, random.Random(SEED))
    until, turn = time.monotonic() + STORM_SECONDS, 0
    while (began := time.monotonic()) < until:
        turn += 1
        deployment.produce(
            record._replace(key=f"storm-{turn}-{record.key}")
            for record in mixed_events(EVENTS_PER_TURN, seed=SEED * 1_000 + turn)
        )
        storm.turn()
        time.sleep(max(0.0, began + LEAST_TURN_SECONDS - time.monotonic()))
    harms = ", ".join(f"{number} × {name}" for name, number in sorted(storm.done.items()))
    stage.do(f"Done in {turn} turns: {harms}. Then everything comes to rest.")
    providers.payments.set_faults()
    deployment.wait_settled(timeout_seconds=PATIENCE_SECONDS)
    deployment.wait_sent(timeout_seconds=PATIENCE_SECONDS)
    deployment.session.command(
        "UPDATE sluice.executed_side_effects SET claimed_until = now() WHERE state = 'running'"
    )
    deployment.wait_called(timeout_seconds=PATIENCE_SECONDS)
    unlisted = _orders(deployment) - len(_mails(providers)) - deployment.calls("send_email")["uncertain"]
    yield Check("Each missing e-mail is listed as uncertain.", 0, max(0, unlisted), count("unlisted e-mail"))
    deployment.run.run_sluice("effects", "reconcile", "--all", "--reason", "after the storm")
    deployment.wait_called(timeout_seconds=PATIENCE_SECONDS)
    complaints = deployment.complaints(deployment.tables())
    yield Check("Postgres holds what the log comes to: {}.", [], complaints, differences)
    captured = Counter(capture.reference for capture in providers.payments.captures())
    twice = sum(number > 1 for number in captured.values())
    yield Check("No payment is captured twice.", 0, twice, count("payment"))
    per_order = dict(Counter(_mails(providers).values()))
    yield Check("After reconciling: {}.", {1: _orders(deployment)}, per_order, each("e-mail", "order"))


def _orders(deployment: Deployment) -> int:
    return sum(deployment.calls("send_email").values())


def _mails(providers: Providers) -> Counter[str | None]:
    return Counter(message.key for message in providers.mail.messages())
