"""Reads the metadata that members of a consumer group committed with their offsets. Joins no group."""

import time
from contextlib import suppress
from typing import Any

from kafka.errors import KafkaError, RetriableError

from sluice.kafka_io.config import build_kafka_python_admin
from sluice.runtime.kafka_access import KafkaAccess

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
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                return self._read()
            except (KafkaError, OSError) as error:
                self.close()
                # A broker that has just started needs a moment to load its groups.
                if not isinstance(error, RetriableError) or time.monotonic() >= deadline:
                    raise GroupMetadataUnavailable(f"{type(error).__name__}: {error}") from error
            time.sleep(RETRY_SECONDS)

    def _read(self) -> set[str]:
        if self._admin is None:
            milliseconds = int(TIMEOUT_SECONDS * 1000)
            self._admin = build_kafka_python_admin(
                self._access, bootstrap_timeout_ms=milliseconds, request_timeout_ms=milliseconds
            )
        offsets = self._admin.list_group_offsets([self._group])[self._group]
        # confluent-kafka 2.16 commits metadata including the NUL that ends a string in C.
        return {offset.metadata.removesuffix("\0") for offset in offsets.values() if offset.metadata} - {""}

    def close(self) -> None:
        """Closes the client. Idempotent."""
        admin, self._admin = self._admin, None
        if admin is not None:
            with suppress(KafkaError, OSError):
                admin.close()
