"""How the queues are shared out among the workers that are there. Pure: every worker decides for itself.

Nobody coordinates. All see the same locks, and reckon the same shares from them: those who hold most keep the
larger ones, so that only what must move moves.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from sluice.db.delivery.leases import LeaseSnapshot


class Moves(NamedTuple):
    """Queues to give back, and free ones to try for, in this order, until so many are taken."""

    give: tuple[str, ...]
    tries: tuple[tuple[tuple[str, ...], int], ...]
    is_short: bool
    """Whether it has less than its share: others have more, and will give it back in a moment."""


def fair_share(held: Mapping[int, int], me: int, queues: int) -> int:
    """How many queues are mine, of so many. `held`: how many each member has now; me among them."""
    floor, more = divmod(queues, len(held))
    ranked = sorted(held, key=lambda member: (-held[member], member))
    return floor + (ranked.index(me) < more)


def decide_moves(
    snapshot: LeaseSnapshot, wanted: AbstractSet[str], shuffled: Callable[[Sequence[str]], list[str]]
) -> Moves:
    """What this worker changes. `wanted`: what it holds and is not giving back already.

    Queues that are retired are shared out by themselves: nothing is to be done there, and a worker that had
    only such ones would be idle.
    """
    give: list[str] = []
    tries = []
    is_short = False
    for retired in (False, True):
        leases = [lease for lease in snapshot.leases if lease.retired is retired]
        held = Counter(dict.fromkeys(snapshot.members, 0))
        held.update(lease.holder for lease in leases if lease.holder in snapshot.members)
        mine = [lease.queue for lease in leases if lease.queue in wanted]
        free = [lease.queue for lease in leases if lease.holder is None]
        share = fair_share(held, snapshot.me, len(leases))
        if len(mine) > share:
            give += _spread(shuffled(mine))[share:]
        elif len(mine) < share:
            is_short = True
            if free:
                tries.append((tuple(_spread(shuffled(free), mine)), share - len(mine)))
    return Moves(tuple(give), tuple(tries), is_short)


def _spread(queues: Iterable[str], held: Iterable[str] = ()) -> list[str]:
    """The queues in such an order that, after those held, as many of each entity type come as can.

    For load comes by entity type: a worker that had all queues of the busiest one would do all the work.
    """
    counts = Counter(_entity(queue) for queue in held)
    by_entity: dict[str, list[str]] = {}
    for queue in queues:
        by_entity.setdefault(_entity(queue), []).append(queue)
    turns = [
        (counts[entity] + turn, queue)
        for entity, of_entity in by_entity.items()
        for turn, queue in enumerate(of_entity)
    ]
    return [queue for _, queue in sorted(turns, key=lambda turn: turn[0])]


def _entity(queue: str) -> str:
    return queue.rpartition(".")[0]
