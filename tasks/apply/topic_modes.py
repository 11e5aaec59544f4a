"""Follows the stored modes of topics: how repeated events of a topic are recognised (`dedup`)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import structlog

from sluice.db.connection import Reconnects, Session
from sluice.db.delivery import dedup_modes
from sluice.db.delivery.dedup_modes import DedupStart, mode_at
from sluice.tasks.api import Topic
from sluice.tasks.fold.registry import Registry

log = structlog.get_logger("sluice.dedup")

FORMER_POSITION = "position with identities"
"""The mode of a topic with dedup="position" that an earlier version registered.

The identities of its records are stored and looked up, until `sluice dedup` stores the mode.
"""


def effective_mode(declared: str, stored: str | None) -> str:
    """Returns the mode that is used. Pure.

    `stored` is None for a topic without a stored mode. The events of such a topic have identities.
    """
    if stored is None:
        return {"natural": "id", "position": FORMER_POSITION}.get(declared, declared)
    return stored


def difference(topic: str, declared: str, counts: str) -> str:
    """Returns a sentence on a declared mode that is not used, with the remedy. Pure."""
    if counts == FORMER_POSITION:
        return (
            f"topic {topic} was registered by an earlier version, so identities of its records are stored;"
            f' after all processes were upgraded, run `sluice dedup {topic} position --reason "…"`'
        )
    return (
        f'topic {topic} declares dedup="{declared}", Postgres has dedup="{counts}"; the mode in Postgres is'
        f' used; declare dedup="{counts}", or run `sluice dedup {topic} {declared} --reason "…"`'
    )


def differences(topics: Iterable[Topic], stored: Mapping[str, str | None]) -> list[str]:
    """Returns a sentence for each registered topic whose declared mode is not used. Pure."""
    counts = [(one, effective_mode(one.dedup, stored[one.name])) for one in topics if one.name in stored]
    return [difference(one.name, one.dedup, mode) for one, mode in counts if mode != one.dedup]


def topic_at(topic: Topic, starts: Sequence[DedupStart], offset: int) -> Topic:
    """Returns the topic with the mode of the record at an offset. Pure.

    `topic` is the declared topic. A record below the first start may have an identity of either form, and a
    reader looks up both.
    """
    mode = effective_mode(topic.dedup, mode_at(starts, offset))
    return topic if mode == topic.dedup else replace(topic, dedup=cast(Any, mode))


class TopicModes:
    """The declared topics with their stored modes, for one process.

    A mode changes only together with the epoch of the entity type. So a record whose epoch is still current
    under the lock of its queue has the mode that was read for this epoch. After a reconnect the modes are
    read again: a promoted standby may lack the newest epoch, and give its number to another mode later.
    """

    def __init__(self, session: Session, registry: Registry) -> None:
        self._session = session
        self._reconnects = Reconnects(session)
        self._declared = registry.topics
        self.topics: dict[str, Topic] = dict(registry.topics)
        """Topic → its declaration, with the mode that is used. Follows the epochs given to `follow`."""
        self._epochs: dict[str, int] = {}
        """Topic → the epoch for which its mode was read."""
        self._reported: set[tuple[str, str]] = set()

    def follow(self, topics: Iterable[tuple[str, int]]) -> None:
        """Reads the modes of topics whose epoch is new. Each topic is given with the epoch of its records."""
        self._check_connection()
        for topic, epoch in topics:
            if self._epochs.get(topic) != epoch and topic in self._declared:
                self.read(self._declared[topic].entity.name)

    def follow_entity(self, entity: str, epoch: int) -> None:
        """Reads the modes of all topics of an entity type, if its epoch is new."""
        self._check_connection()
        names = [one.name for one in self._declared.values() if one.entity.name == entity]
        if any(self._epochs.get(name) != epoch for name in names):
            self.read(entity)

    def read(self, entity: str) -> None:
        """Reads the modes of the entity type's topics."""
        found = dedup_modes.read_modes(self._session, entity)
        for name, topic in self._declared.items():
            if topic.entity.name != entity:
                continue
            stored = None if found is None else found.modes.get(name)
            counts = effective_mode(topic.dedup, stored)
            self.topics[name] = topic if counts == topic.dedup else replace(topic, dedup=cast(Any, counts))
            # A topic that no bridge has registered may still get another mode in this epoch.
            if found is not None and name in found.modes:
                self._epochs[name] = found.epoch
                self._report(name, topic.dedup, counts)

    def _check_connection(self) -> None:
        if self._reconnects.note():
            self._epochs.clear()

    def _report(self, topic: str, declared: str, counts: str) -> None:
        if counts != declared and (topic, counts) not in self._reported:
            self._reported.add((topic, counts))
            log.warning("dedup in code differs from Postgres", detail=difference(topic, declared, counts))
