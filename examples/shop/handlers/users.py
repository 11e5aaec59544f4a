"""Scenario 4: in any order of arrival, the newest change of each field wins."""

from collections.abc import Iterator

import msgspec

from examples.shop.tables import users
from sluice import Delete, Effect, Event, Merge, Upsert, handles


class UserChanged(msgspec.Struct, frozen=True):
    """Data of `user.changed`: the fields that changed."""

    email: str | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET


class UserReplaced(msgspec.Struct, frozen=True):
    """Data of `user.replaced`: the whole user."""

    email: str | None
    name: str | None


@handles("user.changed")
def change_user(event: Event[UserChanged]) -> Iterator[Effect]:
    """Writes the changed fields. Each field keeps its own version."""
    yield Merge(users, event.key, msgspec.to_builtins(event.data))


@handles("user.replaced")
def replace_user(event: Event[UserReplaced]) -> Iterator[Effect]:
    """Writes the whole row by the event's version; an event older than the row is stale."""
    yield Upsert(users, event.key, msgspec.to_builtins(event.data))


@handles("user.deleted")
def delete_user(event: Event[dict[str, object]]) -> Iterator[Effect]:
    """Deletes the row. If the tombstone has no version, the order of arrival decides."""
    yield Delete(users, event.key, version=event.version)
