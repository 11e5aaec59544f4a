"""Shows where a contender without dead letters stops in a log with events that can never be applied."""

import time
from dataclasses import dataclass

from bench.commits import count_outgoing
from bench.contenders import Contender
from bench.events import Expected
from bench.ground import Ground
from bench.log import hidden_log
from bench.streams import MIXED

STUCK_SECONDS = 5.0  # without a commit, after which the contender counts as stopped
LOOK_SECONDS = 0.5
EVENTS = 5_000  # with five poison events, one of them refused by Postgres


@dataclass(frozen=True)
class Survival:
    """The number of events that a contender applied before it stopped, and that it should have applied."""

    contender: str
    applied: int
    expected: int


def measure_survival(ground: Ground, contender: Contender, *, seed: int) -> Survival:
    """Gives the contender a short mixed log with poison events, until it has applied all or stops."""
    expected = Expected()
    events = expected.watch(MIXED.events(EVENTS, seed=seed))
    with ground.site(contender) as site, hidden_log(site.servers, events) as reveal:
        site.start()
        reveal()
        applied, since = 0, time.monotonic()
        while applied < expected.applied and time.monotonic() - since < STUCK_SECONDS:
            time.sleep(LOOK_SECONDS)
            if (now := count_outgoing(site.session, contender.layout)) > applied:
                applied, since = now, time.monotonic()
    return Survival(contender.name, applied, expected.applied)
