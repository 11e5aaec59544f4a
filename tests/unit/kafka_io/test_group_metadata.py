"""A client without a broker fails within its timeout and leaves no thread."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from kafka.errors import KafkaConnectionError, KafkaError

from sluice.kafka_io import config, group_metadata
from sluice.kafka_io.group_metadata import GroupMetadataReader, GroupMetadataUnavailable
from sluice.runtime.kafka_access import KafkaAccess
from tests.waiting import wait_until

NO_BROKER = "127.0.0.1:1"
BUILDERS = (config.build_kafka_python_admin, config.build_kafka_python_consumer)


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("kafka")]


@pytest.mark.parametrize("build", BUILDERS)
def test_a_client_that_reaches_no_broker_leaves_no_thread(build: Callable[..., Any]) -> None:
    before = len(client_threads())
    with pytest.raises(KafkaError):
        build(KafkaAccess(NO_BROKER), bootstrap_timeout_ms=50)
    wait_until(lambda: len(client_threads()) <= before, timeout_seconds=10, what="the thread has ended")


def test_an_unreachable_kafka_is_reported_as_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_metadata, "TIMEOUT_SECONDS", 0.05)
    reader = GroupMetadataReader(KafkaAccess(NO_BROKER), "sluice-0a1b2c3d")
    for _ in range(2):
        with pytest.raises(GroupMetadataUnavailable):
            reader.read()
    reader.close()


def test_a_refused_login_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[KafkaAccess] = []

    def refuse(access: KafkaAccess, **_: object) -> None:
        tries.append(access)
        raise KafkaConnectionError("SLUICE_KAFKA_USERNAME, SLUICE_KAFKA_PASSWORD: broker:1 refuses this user")

    monkeypatch.setattr(group_metadata, "build_kafka_python_admin", refuse)
    with pytest.raises(GroupMetadataUnavailable, match="refuses this user"):
        GroupMetadataReader(KafkaAccess("broker:1"), "sluice-0a1b2c3d").read()
    assert len(tries) == 1
