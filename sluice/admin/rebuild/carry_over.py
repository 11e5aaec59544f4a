"""Finds what users added to a generation's table, or changed in the view, and what a rebuild or a
swap would lose. Pure.
"""

import re
from collections.abc import Iterable, Iterator, Sequence, Set
from itertools import groupby

from sluice.db.projections.generation_tables import TableFacts
from sluice.db.projections.table_traits import Trait
from sluice.db.tables import generation_name

NOT_CARRIED = frozenset(
    {
        "foreign key",
        "inheritance",
        "policy",
        "publication",
        "row-level security",
        "rule",
        "security label",
        "trigger",
    }
)
"""Kinds of traits that a rebuild does not copy from the live generation."""
INDEX_IDENTITY = Trait("replica identity", "an index")
SHOWN_TO_READERS = NOT_CARRIED | {"grant"}
"""Kinds of traits that affect readers even if the live generation does not have them and the new one does."""


def carry_over_refusals(table: str, traits: Iterable[Trait]) -> Iterator[str]:
    """Yields the traits of the live generation's table that the table of a new generation would not have."""
    for kinds in _by_kind(one for one in traits if not _is_carried(one)):
        yield (f"{table} has {kinds}, which a rebuild does not copy to a new generation: remove that first")


def swap_differences(live: str, live_traits: Set[Trait], new: str, new_traits: Set[Trait]) -> Iterator[str]:
    """Yields what a swap would remove or add for readers. `live` and `new` are the tables' names."""
    for kinds in _by_kind(live_traits - new_traits):
        yield f"{live} has {kinds}, and {new} does not: add that to {new}, or remove it from {live}"
    gained = {one for one in new_traits - live_traits if one.kind in SHOWN_TO_READERS}
    for kinds in _by_kind(gained):
        yield f"{new} has {kinds}, and {live} does not: remove that from {new}, or add it to {live}"


def drop_losses(
    dropped: str, dropped_traits: Set[Trait], live: str, live_traits: Set[Trait]
) -> Iterator[str]:
    """Yields the traits of a table that readers saw earlier, if the live table does not have them:
    dropping the table would lose them.
    """
    for kinds in _by_kind(one for one in dropped_traits - live_traits if not _is_carried(one)):
        yield f"{dropped} has {kinds}, and {live} does not: add that to {live}, or remove it from {dropped}"


def view_refusals(projection: str, live: int, columns: Sequence[str], view: TableFacts) -> Iterator[str]:
    """Yields why a swap cannot replace the view, or what would be lost.

    After a swap, the view only selects the columns of the generation's table.
    """
    name = generation_name(projection, live)
    if not view.is_owned:
        yield (
            f"the view {projection} belongs to the role {view.owner}, and the role of this command is"
            f" not a member of {view.owner}: grant {view.owner} to the role of this command"
        )
    if view.definition is None or list(view.columns) != list(columns):
        return
    if _bare(view.definition).replace(f"{_bare(name)}.", "") != _bare(
        f"SELECT {','.join(columns)} FROM {name};"
    ):
        yield (
            f"the view {projection} does not just select the columns of {name}, and a swap would replace"
            f" it by a view that does: move your changes to another view, which reads {projection}"
        )


def reader_refusals(projection: str, table: str, readers: Iterable[str]) -> Iterator[str]:
    """Yields objects that depend directly on a generation's table: after a swap they would still
    read the old table.
    """
    direct = [reader for reader in readers if reader != projection]
    if direct:
        yield (
            f"{', '.join(direct)} reads {table} directly and would still read {table} after a swap:"
            f" change it to read the view {projection}"
        )


def _is_carried(trait: Trait) -> bool:
    return trait.kind not in NOT_CARRIED and trait != INDEX_IDENTITY


def _by_kind(traits: Iterable[Trait]) -> Iterator[str]:
    """Yields one text per kind, such as `the grant SELECT to a, INSERT to b`."""
    for kind, same in groupby(sorted(traits), key=lambda one: one.kind):
        yield f"the {kind} {', '.join(' '.join(one.what.split()) for one in same)}"


def _bare(query: str) -> str:
    """Returns the query without quotes and line breaks, which depend on the version of Postgres."""
    return re.sub(r"[\s\"]", "", query)
