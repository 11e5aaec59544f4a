"""Reads what members of a consumer group committed, and the right to the group. Joins no group."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from kafka.errors import GroupAuthorizationFailedError, KafkaError, RetriableError
from kafka.protocol.consumer.group import HeartbeatRequest

from sluice.kafka_io.config import build_kafka_python_admin
from sluice.kafka_io.login_check import read_sentence
from sluice.runtime.kafka_access import KafkaAccess

T = TypeVar("T")

TIMEOUT_SECONDS = 3.0
"""The longest time for which a starting process waits for Kafka."""
RETRY_SECONDS = 0.1


class GroupMetadataUnavailable(Exception):
    """Raised if Kafka did not answer in time, or if this process has no right to describe the group."""


class GroupMetadataReader:
    """Holds one client, made at the first use. Owned by one thread.

    Does not use confluent-kafka. Its version 2.16 sometimes crashes the process with a segmentation fault if
    the coordinator of the group is still loading.
    """

    def __init__(self, access: KafkaAccess, group: str) -> None:
        self._access = access
        self._group = group
        self._admin: Any = None

    def read(self) -> set[str]:
        """Returns the metadata of the group's offsets. Raises GroupMetadataUnavailable."""
        return self._retried(self._read)

    def may_read(self) -> bool:
        """Returns False if this user has no right to READ the group, which a member needs. Joins no group.

        Raises GroupMetadataUnavailable.
        """
        return self._retried(self._may_read)

    def _retried(self, ask: Callable[[], T]) -> T:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                return ask()
            except (KafkaError, OSError) as error:
                self.close()
                # A broker that has just started needs a moment to load its groups. A refused login is refused
                # again.
                lasts = not isinstance(error, RetriableError) or read_sentence(str(error)) is not None
                if lasts or time.monotonic() >= deadline:
                    raise GroupMetadataUnavailable(f"{type(error).__name__}: {error}") from error
            time.sleep(RETRY_SECONDS)

    def _connected(self) -> Any:
        if self._admin is None:
            milliseconds = int(TIMEOUT_SECONDS * 1000)
            self._admin = build_kafka_python_admin(
                self._access, bootstrap_timeout_ms=milliseconds, request_timeout_ms=milliseconds
            )
        return self._admin

    def _may_read(self) -> bool:
        manager = self._connected()._manager
        # A broker checks the right before it looks for the member, which does not exist. To describe the
        # group would not do: the right to READ includes DESCRIBE, but not the reverse.
        request = HeartbeatRequest(
            group_id=self._group, generation_id=-1, member_id="", group_instance_id=None
        )

        async def ask() -> Any:
            return await manager.send(request, request_timeout_ms=int(TIMEOUT_SECONDS * 1000))

        return bool(manager.run(ask).error_code != GroupAuthorizationFailedError.errno)

    def _read(self) -> set[str]:
        offsets = self._connected().list_group_offsets([self._group])[self._group]
        # confluent-kafka 2.16 commits metadata including the NUL that ends a string in C.
        return {offset.metadata.removesuffix("\0") for offset in offsets.values() if offset.metadata} - {""}

    def close(self) -> None:
        """Closes the client. Idempotent."""
        admin, self._admin = self._admin, None
        if admin is not None:
            with suppress(KafkaError, OSError):
                admin.close()
