"""Whether an entity type may be re-routed without anything coming twice, and what is missing. Pure."""

from db.rerouting import Unsettled


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
        said.append("outgoing events leave while beat and a worker on relay,maint run")
    return "; ".join(said)
