"""Names the transactions that a rebuild waits for, so that an operator finds them. Pure."""

from collections.abc import Sequence

from sluice.db.projections.snapshots import OpenTransaction
from sluice.db.values import printable

MOST_NAMED = 5
QUERY_CHARACTERS = 60


def name_transactions(found: Sequence[OpenTransaction]) -> str:
    """Returns the names of the oldest transactions, and the number of the others."""
    oldest = sorted(found, key=lambda one: -(one.seconds or 0.0))
    more = f" and {len(oldest) - MOST_NAMED} more" if len(oldest) > MOST_NAMED else ""
    return "; ".join(name_transaction(one) for one in oldest[:MOST_NAMED]) + more


def name_transaction(one: OpenTransaction) -> str:
    """Returns the process id or name of the transaction, its role, age and query."""
    age = "" if one.seconds is None else f", {one.seconds:.0f} s old"
    name, role = printable(one.name), f"role {one.role}"
    if one.pid is None:
        return f"prepared transaction {name!r} ({role}{age})"
    words = " ".join(printable(one.query or "").split())
    query = words if len(words) <= QUERY_CHARACTERS else f"{words[: QUERY_CHARACTERS - 1]}…"
    return f"pid {one.pid} ({role}, application {name!r}{age}{query and f': {query}'})"
