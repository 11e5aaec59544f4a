"""The names of one installation, which separate it from others in one Redis and one Kafka."""

from dataclasses import dataclass
from uuid import UUID

NAME_PATTERN = r"[a-z][a-z0-9-]{0,30}"
"""A name is part of Redis keys and of a consumer group, so it has no character that is special there."""


class InstallationRefused(Exception):
    """Raised if this process must not work with this database. The message has the reason and what to do."""


@dataclass(frozen=True)
class Installation:
    """The name that its operator chose, and the random id that `sluice init` drew."""

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
