"""The contract suite of both consumers, over TLS and a login, with the rights that Sluice needs."""

import os
from collections.abc import Iterator

import pytest

from tests.harness import stacks
from tests.harness.secure_kafka import SecureStack, secure_stack
from tests.system.kafka_io import test_consumers
from tests.system.kafka_io.conftest import producer, topic
from tests.system.kafka_io.test_consumers import consumer

__all__ = ["consumer", "producer", "topic"]

pytestmark = pytest.mark.matrix

# The contract, whose fixtures find the broker of this module.
globals().update({name: value for name, value in vars(test_consumers).items() if name.startswith("test_")})


@pytest.fixture(scope="module")
def kafka() -> Iterator[SecureStack]:
    """Yields a secure broker, which replaces the broker of the test run."""
    with secure_stack(stacks.FOLDER / f"{os.getpid()}-secure-consumers") as stack:
        stack.user_may_delete_topics()
        yield stack
