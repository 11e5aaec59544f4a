"""A bridge is unhealthy only while a restart may help. A spare bridge has no partition: too few exist."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.bridge.bridge_health import UNHEALTHY_SECONDS, BridgeHealth


def test_a_bridge_that_cannot_make_a_consumer_although_brokers_answer_is_unhealthy() -> None:
    health = BridgeHealth()
    health.note_consumer(is_broken=True, now=0.0)
    assert health.is_healthy(UNHEALTHY_SECONDS - 1)
    assert not health.is_healthy(UNHEALTHY_SECONDS)
    health.note_consumer(is_broken=False, now=UNHEALTHY_SECONDS + 1)
    assert health.is_healthy(UNHEALTHY_SECONDS + 1)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=100))
def test_a_bridge_without_partitions_is_unhealthy_only_if_a_partition_had_no_bridge_for_too_long(
    seen: list[tuple[bool, bool]],
) -> None:
    health, since = BridgeHealth(), None
    for now, (assigned, unowned) in enumerate(seen):
        health.note_partitions(assigned=assigned, unowned=unowned, now=float(now))
        since = (now if since is None else since) if unowned and not assigned else None
        assert health.is_healthy(float(now)) == (since is None or now - since < UNHEALTHY_SECONDS)


def test_a_spare_bridge_stays_healthy() -> None:
    health = BridgeHealth()
    for now in range(0, 10_000, 5):
        health.note_consumer(is_broken=False, now=float(now))
        health.note_partitions(assigned=False, unowned=False, now=float(now))
        assert health.is_healthy(float(now))
