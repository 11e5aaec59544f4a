"""What another number of shards changes, and whether an entity type may be resharded now. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from sluice.admin.decisions import OperationRefused
from sluice.db.admin.rerouting import Unsettled
from sluice.tasks.events.routing import queue_name, shard_of


@dataclass(frozen=True)
class Resharded:
    """What a re-routing came to: the queues that are new, those no longer used, the entities that moved."""

    entity: str
    shards_before: int
    shards: int
    epoch: int | None
    new_queues: tuple[str, ...]
    unused_queues: tuple[str, ...]
    moved: int
    """Parked entities that are in another queue now."""


def require_other_shards(entity: str, before: int | None, shards: int) -> int:
    """The shard count as it is. Raises OperationRefused if there is none, or it is the one that is wanted."""
    if before is None:
        raise OperationRefused(
            f"there is no entity type {entity}: `sluice init` makes what the handlers declare"
        )
    if before == shards:
        raise OperationRefused(f"entity type {entity} has {shards} shards already")
    return before


def plan_reshard(entity: str, before: int, shards: int, epoch: int | None, moved: int) -> Resharded:
    """What it comes to; `epoch` is None as long as it is only planned."""
    added, unused = range(before, shards), range(shards, before)
    return Resharded(
        entity,
        before,
        shards,
        epoch,
        tuple(queue_name(entity, shard) for shard in added),
        tuple(queue_name(entity, shard) for shard in unused),
        moved,
    )


def parked_moves(parked: Mapping[str, str], entity: str, shards: int) -> dict[str, str]:
    """Key → its queue with so many shards, of the parked entities that are in another one."""
    wanted = {key: queue_name(entity, shard_of(key.encode(), shards)) for key in parked}
    return {key: queue for key, queue in wanted.items() if queue != parked[key]}


def is_settled(found: Unsettled) -> bool:
    """Every record that was read has its outcome, and nothing of it waits to be published."""
    return not found.lanes and not found.outgoing


def unsettled_text(found: Unsettled) -> str:
    """What is still in hand, in a few words."""
    said = [f"{found.lanes} lanes have records in hand"] if found.lanes else []
    if found.outgoing:
        said.append(f"{found.outgoing} outgoing events wait")
    return " and ".join(said) or "everything is settled"


def advice(found: Unsettled) -> str:
    """What to look at, where it does not become settled."""
    said = []
    if found.halted:
        said.append(f"{found.halted} of its queues are halted (`sluice status` says why)")
    elif found.lanes:
        said.append("lanes settle while a bridge runs and every queue has a worker")
    if found.refused:
        said.append(f"{found.refused} outgoing events are refused (`sluice outbox ls --refused`)")
    elif found.outgoing:
        said.append("outgoing events leave while beat and a worker on relay,maintenance run")
    return "; ".join(said)
