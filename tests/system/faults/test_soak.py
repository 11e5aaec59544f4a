"""Kills processes and disturbs services for minutes, from a printed seed, and then checks the data."""

import os
import random
import time
from collections import Counter

import pytest

from examples.shop.generate import generate
from sluice.stack import Stack
from sluice.testing.servers.deployment import Deployment
from tests.harness.providers import Providers
from tests.harness.storm import Storm, mixed_events
from tests.system.conftest import MakeDeployment
from tests.system.faults.load import SteadyLoad, assert_equals_the_oracle
from tests.system.faults.test_kills import kill_bridges_in_turns
from tests.system.tasks import rebuilding
from tests.waiting import wait_until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(7_200)]

EVENTS_PER_TURN = 1_000
# For so many turns, the same events are repeated, because each new order makes a slow call.
TURNS_PER_SEED = 40
CAPTURES_PER_TURN = 5
LIVE_RATE = 1_000  # Events a second while a rebuild runs.


@pytest.fixture
def seed() -> int:
    """Returns the seed from SOAK_SEED, or a random seed. Prints the seed, for a repetition of the run."""
    given = os.environ.get("SOAK_SEED", "random")
    chosen = random.randrange(10**6) if given == "random" else int(given)
    print(f"SOAK_SEED={chosen}")
    return chosen


@pytest.fixture
def until() -> float:
    """Returns the end of the run on the monotonic clock: SOAK_MINUTES from now."""
    return time.monotonic() + 60 * float(os.environ.get("SOAK_MINUTES", "10"))


def test_two_bridges_killed_in_turns_for_minutes_lose_nothing(
    make_deployment: MakeDeployment, seed: int, until: float
) -> None:
    deployment = make_deployment()
    kill_bridges_in_turns(deployment, seed=seed, keep_on=lambda _: time.monotonic() < until)


@pytest.mark.own("kafka", "postgres", "redis")
def test_kills_outages_and_faults_lose_nothing(
    make_deployment: MakeDeployment, providers: Providers, own_stack: Stack, seed: int, until: float
) -> None:
    rng = random.Random(seed)
    deployment = make_deployment(**providers.environ())
    storm = Storm(deployment, providers, own_stack, rng)
    captures: set[str] = set()
    turn = 0
    while time.monotonic() < until:
        turn += 1
        deployment.produce(mixed_events(EVENTS_PER_TURN, seed=seed * 1_000 + turn // TURNS_PER_SEED))
        wanted = [
            record._replace(key=f"{record.key}-{turn}")
            for record in generate("captures", count=CAPTURES_PER_TURN, seed=turn)
        ]
        captures |= {record.key for record in wanted}
        deployment.produce(wanted)
        storm.turn()
    print(f"{turn} turns: {dict(storm.done)}")
    providers.payments.set_faults()
    deployment.wait_settled(timeout_seconds=300)
    deployment.wait_sent(timeout_seconds=120)
    deployment.wait_called(timeout_seconds=900)
    assert_equals_the_oracle(deployment)
    _assert_calls_add_up(deployment, providers, captures)


def _assert_calls_add_up(deployment: Deployment, providers: Providers, captures: set[str]) -> None:
    captured = Counter(capture.reference for capture in providers.payments.captures())
    assert set(captured.values()) <= {1}, "a payment was captured twice"
    states = deployment.calls("capture_payment")
    missing = captures - captured.keys()
    assert len(missing) <= states["uncertain"] + states["failed"], (missing, states)
    mails = Counter(message.key for message in providers.mail.messages())
    assert set(mails.values()) <= {1}, "an e-mail was sent twice"
    unknown = deployment.calls("send_email")
    orders = sum(unknown.values())
    print(f"captures {states}, e-mails {unknown}, {len(mails)} of {orders} sent")
    assert len(mails) >= unknown["succeeded"]
    assert len(mails) <= orders


def test_a_projection_is_rebuilt_under_load(make_deployment: MakeDeployment) -> None:
    count = int(os.environ.get("SOAK_EVENTS", "300000"))
    deployment = rebuilding.with_old_lines(make_deployment, count)
    for number in (1, 2):
        deployment.run.start_rebuilds(name=f"rebuild-{number}")
    why = ("--reason", "the tax was wrong")
    live = LivePayments(deployment, count)
    with rebuilding.readers(deployment, 200) as looking, live:
        live.wait_more(5)
        began = time.monotonic()
        rebuilding.sluice(deployment, "start", rebuilding.PROJECTION, *why, "--no-wait")
        rebuilding.wait_ready(deployment, 2, timeout_seconds=1_200)
        took = time.monotonic() - began
        report = rebuilding.sluice(deployment, "diff", rebuilding.PROJECTION)
        assert report["rows"]["differing"] == count
        assert report["rows"]["only_live"] == report["rows"]["only_new"] == 0, report["rows"]
        rebuilding.sluice(deployment, "approve", rebuilding.PROJECTION, *why, "--yes")
        rebuilding.sluice(deployment, "swap", rebuilding.PROJECTION, *why, "--yes")
        live.wait_more(5)
        wait_until(lambda: looking.seen[-1] == "right", timeout_seconds=60, what="the new lines are read")
        rebuilding.sluice(deployment, "swap", rebuilding.PROJECTION, "--back", *why, "--yes")
        live.wait_more(5)
        wait_until(lambda: looking.seen[-1] == "wrong", timeout_seconds=60, what="the old lines are read")
    deployment.wait_settled(timeout_seconds=300)
    print(
        f"{count} events rebuilt in {took:.0f} s beside {live.sent} new events; most new events unapplied at"
        f" the same time: {live.most_behind}; {looking.looks} reads"
    )
    assert looking.seen == ["wrong", "right", "wrong"]
    everything = range(count + live.sent)
    right, wrong = rebuilding.right_line, rebuilding.wrong_line
    assert rebuilding.lines_of(deployment, 2) == {f"pay-{n}": right(n) for n in everything}
    assert rebuilding.lines_of(deployment, 1) == {
        f"pay-{n}": wrong(n) if n < count else right(n) for n in everything
    }


class LivePayments(SteadyLoad):
    """Produces a thousand payments a second and records the largest number of unapplied payments."""

    def __init__(self, deployment: Deployment, first: int) -> None:
        super().__init__(
            deployment, lambda count, sent: rebuilding.payments(first + sent, count), rate=LIVE_RATE
        )
        self._first = first
        self.most_behind = 0

    def look(self, deployment: Deployment) -> None:
        """Updates `most_behind` with the current number of unapplied events."""
        behind = self._first + self.sent - sum(deployment.outcomes("payments").values())
        self.most_behind = max(self.most_behind, behind)
