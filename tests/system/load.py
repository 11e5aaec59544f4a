"""The load of the system tests, and the one question asked after each fault."""

import random
from collections.abc import Iterator

from ops.trial.deployment import Deployment
from shop.generate import KINDS, OutgoingRecord, generate

REPEATED_SHARE = 0.1  # of all events come a second time, as producers' retries do


def mixed_events(count: int, *, seed: int) -> Iterator[OutgoingRecord]:
    """Events of all kinds, interleaved, some of them twice; the same seed gives the same events."""
    rng = random.Random(seed)
    each = count // len(KINDS)
    sources = [generate(name, count=each, seed=seed, keys=50) for name in KINDS]
    while sources:
        source = rng.choice(sources)
        record = next(source, None)
        if record is None:
            sources.remove(source)
            continue
        yield record
        if rng.random() < REPEATED_SHARE:
            yield record


def assert_as_the_oracle_says(deployment: Deployment) -> None:
    """Tables equal the oracle's fold of the log; outcomes equal its outcomes, and add up to the records."""
    complaints = deployment.complaints(deployment.tables())
    assert not complaints, "\n".join(complaints[:20])
