"""What Redis holds of a queue, as the bridge reads it. Pure."""

from typing import NamedTuple


class Waiting(NamedTuple):
    """What is on a queue's list, of all bridges."""

    messages: int
    bytes: int


class Whereabouts(NamedTuple):
    """Ids of messages of a queue: on its list, and in hand of workers that live."""

    on_list: frozenset[str] = frozenset()
    in_hand: frozenset[str] = frozenset()
