"""Waits until no transaction could read a generation with a snapshot from before it was filled."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sluice.admin.operation_wait import NotYet
from sluice.admin.rebuild.open_transactions import name_transactions
from sluice.db.connection import Session
from sluice.db.projections.snapshots import SnapshotHolder, read_filled_xid, read_snapshots

ADVICE = (
    "Let them end, or end them: `SELECT pg_terminate_backend(PID)`, `ROLLBACK PREPARED 'NAME'`."
    " --patience SECONDS waits for longer"
)


class OlderSnapshots(NotYet):
    """Transactions would read the generation as it was before it was filled."""

    def __init__(self, projection: str, generation: int, older: Sequence[SnapshotHolder]) -> None:
        super().__init__(
            f"transactions that began before generation {generation} of {projection} was filled would miss"
            f" rows of it: {name_transactions([one.holder for one in older])}",
            ADVICE,
        )


@dataclass
class OlderHolders:
    """Which transactions may hold a snapshot from before a moment. Pure.

    While a transaction writes for long, new snapshots have the xmin of old ones. So those count that were
    there at the first look, each until it has once been seen without an old snapshot; and those that came
    later with the same xmin as one of the first that was still there: it may have exported its snapshot.
    """

    first: dict[str, int] | None = None
    """Key → xmin; None before the first look."""
    importers: set[str] = field(default_factory=set)

    def look(self, holders: Iterable[SnapshotHolder], xid: int) -> list[SnapshotHolder]:
        """Returns those of the holders that may lack what transaction `xid` wrote."""
        old: Mapping[str, SnapshotHolder] = {one.key: one for one in holders if one.xmin <= xid}
        before = self.first if self.first is not None else {key: one.xmin for key, one in old.items()}
        exported = set(before.values())
        self.importers = {
            key
            for key, one in old.items()
            if key not in before and (key in self.importers or one.xmin in exported)
        }
        self.first = {key: old[key].xmin for key in before if key in old}
        return [one for key, one in old.items() if key in self.first or key in self.importers]


@dataclass
class SnapshotWait:
    """Knows between the attempts of one swap what it waits for."""

    filled_xid: int = -1
    holders: OlderHolders = field(default_factory=OlderHolders)

    def require(self, session: Session, projection: str, generation: int) -> int:
        """Returns up to which transaction the generation is filled, once no older snapshot is left.

        Raises OlderSnapshots. Outside of a transaction.
        """
        filled_xid = read_filled_xid(session, projection, generation)
        if filled_xid > self.filled_xid:
            self.filled_xid, self.holders = filled_xid, OlderHolders()
        older = self.holders.look(read_snapshots(session), filled_xid)
        if older:
            raise OlderSnapshots(projection, generation, older)
        return filled_xid
