"""The names of one installation: what separates it from others in one Redis and one Kafka."""

from dataclasses import dataclass
from uuid import UUID

NAME_PATTERN = r"[a-z][a-z0-9-]{0,30}"
"""A name is part of keys in Redis and of a consumer group: no character that either reads as a pattern."""


class InstallationRefused(Exception):
    """This process must not work with this database. The message names the reason and what to do."""


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
        """What every key in Redis begins with."""
        return f"{self.group}:"
