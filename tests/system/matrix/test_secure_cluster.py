"""Three brokers with replicas restart in turn under load, over TLS and a login."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.kafka_cluster import REPLICATED
from tests.harness.secure_cluster import SecureCluster, secure_cluster
from tests.system.matrix.test_faulty_brokers import (
    test_two_bridges_continue_during_a_rolling_restart_of_three_brokers as test_two_bridges_continue,
)

__all__ = ["test_two_bridges_continue"]

pytestmark = [pytest.mark.matrix, pytest.mark.unforked, pytest.mark.timeout(1_800)]


@pytest.fixture
def kafka(tmp_path: Path) -> Iterator[SecureCluster]:
    """Yields a secure cluster, which replaces the broker of the test run."""
    with secure_cluster(tmp_path / "kafka", 3, REPLICATED) as cluster:
        yield cluster
