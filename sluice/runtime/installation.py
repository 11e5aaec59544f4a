"""The names of one installation. They separate installations that share a Redis or a Kafka."""

from dataclasses import dataclass
from uuid import UUID

NAME_PATTERN = r"[a-z][a-z0-9-]{0,30}"
"""A name is part of Redis keys and of a consumer group.

It contains no character with a special meaning there.
"""


class InstallationRefused(Exception):
    """Raised if this process must not work with this database. The message has the reason and the remedy."""


@dataclass(frozen=True)
class Installation:
    """An installation: the name that its operator chose, and the random id that `sluice init` drew."""

    name: str
    id: UUID

    @property
    def group(self) -> str:
        """`<name>-<first eight digits of the id>`: the consumer group, and the default CloudEvents source."""
        return f"{self.name}-{self.id.hex[:8]}"

    @property
    def redis_prefix(self) -> str:
        """The prefix of every key in Redis."""
        return f"{self.group}:"
