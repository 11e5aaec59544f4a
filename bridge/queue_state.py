"""The state of a queue in Redis, as the bridge reads it. Pure."""

from typing import NamedTuple


class Waiting(NamedTuple):
    """The size of a queue's list. The messages of all bridges count."""

    messages: int
    bytes: int


class Whereabouts(NamedTuple):
    """Ids of a queue's messages: on its list, and in hand of running workers."""

    on_list: frozenset[str] = frozenset()
    in_hand: frozenset[str] = frozenset()
