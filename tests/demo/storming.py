"""Scenario 7: random faults from a printed seed. Then all data is compared with the log."""

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
# This pause lets a process work before it is killed, and limits the number of events on a fast machine.
LEAST_TURN_SECONDS = 0.4
PATIENCE_SECONDS = 240.0  # enough for expired leases, and for the backoff of interrupted calls


def play_7(stage: Stage) -> Iterator[Check]:
    """Random faults: repeated steps are harmless, and no event is lost or applied twice."""
    deployment, providers = stage.deployment, stage.providers
    stage.do(f"For {STORM_SECONDS:.0f} seconds, faults occur at random. The random seed is {SEED}.")
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
    stage.do(f"Faults in {turn} turns: {harms}. Then the faults end, and all events are processed.")
    providers.payments.set_faults()
    deployment.wait_settled(timeout_seconds=PATIENCE_SECONDS)
    deployment.wait_sent(timeout_seconds=PATIENCE_SECONDS)
    deployment.session.command(
        "UPDATE sluice.executed_side_effects SET claimed_until = now() WHERE state = 'running'"
    )
    deployment.wait_called(timeout_seconds=PATIENCE_SECONDS)
    unlisted = _orders(deployment) - len(_mails(providers)) - deployment.calls("send_email")["uncertain"]
    yield Check(
        "Each order without an e-mail is listed as uncertain.", 0, max(0, unlisted), count("unlisted e-mail")
    )
    deployment.run.run_sluice("effects", "reconcile", "--all", "--reason", "after random faults")
    deployment.wait_called(timeout_seconds=PATIENCE_SECONDS)
    complaints = deployment.complaints(deployment.tables())
    yield Check("Postgres and the data computed from the log have {}.", [], complaints, differences)
    captured = Counter(capture.reference for capture in providers.payments.captures())
    twice = sum(number > 1 for number in captured.values())
    yield Check("No payment is captured twice.", 0, twice, count("payment"))
    per_order = dict(Counter(_mails(providers).values()))
    orders = {1: _orders(deployment)}
    yield Check("After reconciling, the mail server has {}.", orders, per_order, each("e-mail", "order"))


def _orders(deployment: Deployment) -> int:
    return sum(deployment.calls("send_email").values())


def _mails(providers: Providers) -> Counter[str | None]:
    return Counter(message.key for message in providers.mail.messages())
