"""Divides the queues among the running workers. Pure.

There is no coordinator: every worker decides for itself. All workers read the same locks and compute the same
shares. The workers that hold the most queues get the larger shares, so that few queues move.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from sluice.db.delivery.leases import Lease, LeaseSnapshot


class Moves(NamedTuple):
    """Queues to give back, and groups of free queues.

    The worker tries the queues of each group in order, until it has taken the number that is given with the
    group.
    """

    give: tuple[str, ...]
    tries: tuple[tuple[tuple[str, ...], int], ...]
    is_short: bool
    """True if this worker has less than its share.

    Then other workers have more than their shares, and will give queues back.
    """


def fair_share(held: Mapping[int, int], me: int, queues: int) -> int:
    """Returns the share of the member `me`.

    `held`: member → number of queues that it holds now, `me` included.
    """
    floor, more = divmod(queues, len(held))
    ranked = sorted(held, key=lambda member: (-held[member], member))
    return floor + (ranked.index(me) < more)


def eligible(snapshot: LeaseSnapshot, queue: str) -> frozenset[int]:
    """Returns the members that may hold the queue. Empty if no member declares the queue's entity type.

    Members that have given the queue back may hold it only if all members have given it back. Of the other
    members, those that declare the most registered topics of the entity type may hold the queue.

    If a member lacks a topic and has therefore given the queue back, members that declare this topic come
    first. Otherwise workers that all lack the topic would take the queue in turns, and the worker that
    declares the topic would not get the queue.
    """
    entity = _entity(queue)
    declaring = {m: snapshot.of(m) for m in snapshot.members if entity in snapshot.of(m).topics}
    serving = {m: one for m, one in declaring.items() if queue not in one.yielded}
    yielders = [one for m, one in declaring.items() if m not in serving] if serving else []
    topics = snapshot.topics.get(entity, frozenset())
    lacking: frozenset[str] = frozenset().union(*(topics - one.topics[entity] for one in yielders))
    ranks = {
        m: (
            len(lacking & one.topics[entity]),
            one.format if yielders else 0,
            len(topics & one.topics[entity]),
        )
        for m, one in (serving or declaring).items()
    }
    best = max(ranks.values(), default=None)
    return frozenset(m for m, rank in ranks.items() if rank == best)


def may_yield(snapshot: LeaseSnapshot, queue: str, *, topics: Iterable[str], message_format: int) -> bool:
    """Returns True if another member can apply the records of the queue that this worker could not apply.

    The other member must declare a topic in `topics` or read the format, and must not have given the queue
    back.
    """
    entity = _entity(queue)
    newer = message_format > snapshot.of(snapshot.me).format
    for member in snapshot.members - {snapshot.me}:
        declared = snapshot.of(member)
        of_entity = declared.topics.get(entity)
        if of_entity is None or queue in declared.yielded:
            continue
        if not of_entity.isdisjoint(topics) or (newer and declared.format >= message_format):
            return True
    return False


def decide_moves(
    snapshot: LeaseSnapshot, wanted: AbstractSet[str], shuffled: Callable[[Sequence[str]], list[str]]
) -> Moves:
    """Returns the moves of this worker.

    `wanted`: the queues that this worker holds and does not plan to give back.

    Queues with the same eligible members form a group, which is divided separately. Usually there is one
    group. Retired queues form groups of their own: they have no work, so a worker with only retired queues
    would be idle.
    """
    groups: dict[tuple[bool, frozenset[int]], list[Lease]] = {}
    for lease in snapshot.leases:
        groups.setdefault((lease.retired, eligible(snapshot, lease.queue)), []).append(lease)
    give: list[str] = []
    tries = []
    is_short = False
    for (_, members), leases in sorted(groups.items(), key=lambda group: group[0][0]):
        mine = [lease.queue for lease in leases if lease.queue in wanted]
        if snapshot.me not in members:
            give += mine
            continue
        held = Counter(dict.fromkeys(members, 0))
        held.update(lease.holder for lease in leases if lease.holder in members)
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
    """Orders the queues so that the entity types take turns.

    Entity types of which the worker already holds queues in `held` come later. The reason is that load
    differs by entity type: a worker with all queues of the busiest type would do all the work.
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
