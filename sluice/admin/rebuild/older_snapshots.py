"""Waits until no transaction has a snapshot that is older than the fill of a generation."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sluice.admin.operation_wait import NotYet
from sluice.admin.rebuild.open_transactions import name_transactions
from sluice.db.connection import Session
from sluice.db.projections.snapshots import SnapshotHolder, read_filled_xid, read_snapshots

ADVICE = (
    "Wait until these transactions end (--patience SECONDS waits longer), or end them: `SELECT"
    " pg_terminate_backend(PID)`, `ROLLBACK PREPARED 'NAME'`"
)


class OlderSnapshots(NotYet):
    """Open transactions would not see all rows of the generation."""

    def __init__(self, projection: str, generation: int, older: Sequence[SnapshotHolder]) -> None:
        super().__init__(
            f"transactions that began before generation {generation} of {projection} was filled would"
            f" not see all of its rows: {name_transactions([one.holder for one in older])}",
            ADVICE,
        )


@dataclass
class OlderHolders:
    """The transactions that may have a snapshot that is older than a given transaction. Pure.

    During a long write transaction, new snapshots have the same xmin as old snapshots. So two
    kinds of transactions count. The first kind: the transactions that the first check found, each
    until a check finds it without an old snapshot. The second kind: a later transaction with the
    same xmin as a transaction of the first kind that was still open, because that one may have
    exported its snapshot.
    """

    first: dict[str, int] | None = None
    """Key → xmin; None before the first check."""
    importers: set[str] = field(default_factory=set)

    def look(self, holders: Iterable[SnapshotHolder], xid: int) -> list[SnapshotHolder]:
        """Returns the transactions that may not see the rows that transaction `xid` wrote."""
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
    """Keeps, between the attempts of one swap, the transactions that the swap waits for."""

    filled_xid: int = -1
    holders: OlderHolders = field(default_factory=OlderHolders)

    def require(self, session: Session, projection: str, generation: int) -> int:
        """Returns the last transaction that filled the generation, when no older snapshot is left.

        Raises OlderSnapshots. Must run outside of a transaction.
        """
        filled_xid = read_filled_xid(session, projection, generation)
        if filled_xid > self.filled_xid:
            self.filled_xid, self.holders = filled_xid, OlderHolders()
        older = self.holders.look(read_snapshots(session), filled_xid)
        if older:
            raise OlderSnapshots(projection, generation, older)
        return filled_xid
