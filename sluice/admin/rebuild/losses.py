"""Reads what users added to a projection (such as triggers and grants) and what a rebuild, a swap
or a drop would lose.
"""

from collections.abc import Sequence

from sluice.admin.rebuild.carry_over import (
    carry_over_refusals,
    drop_losses,
    reader_refusals,
    swap_differences,
    view_refusals,
)
from sluice.admin.rebuild.preflight import table_refusals
from sluice.db.connection import Session
from sluice.db.projections.generation_tables import read_table
from sluice.db.projections.generations import Generation
from sluice.db.projections.table_traits import read_traits
from sluice.db.tables import generation_name


def read_plan_refusals(session: Session, projection: str, live: int, columns: Sequence[str]) -> list[str]:
    """Returns why the live generation's table, or the view over it, prevents a rebuild."""
    name = generation_name(projection, live)
    table, view = read_table(session, name), read_table(session, projection)
    # Triggers are left out here, because the refusals of the table report them.
    traits = [one for one in read_traits(session, name) if one.kind != "trigger"]
    return [
        *table_refusals(projection, live, columns, table, view),
        *view_refusals(projection, live, columns, view),
        *carry_over_refusals(name, traits),
    ]


def read_swap_losses(session: Session, new: Generation, live: int, columns: Sequence[str]) -> list[str]:
    """Returns what readers would lose if `new` became live, one sentence for each kind."""
    table = generation_name(new.projection, live)
    return [
        *view_refusals(new.projection, live, columns, read_table(session, new.projection)),
        *reader_refusals(new.projection, table, read_table(session, table).readers),
        *swap_differences(table, read_traits(session, table), new.table, read_traits(session, new.table)),
    ]


def read_drop_losses(session: Session, dropped: Generation, live: int) -> list[str]:
    """Returns what the drop of a generation that readers saw before would lose, one sentence for
    each kind.
    """
    if not dropped.has_been_live:
        return []
    table = generation_name(dropped.projection, live)
    return list(
        drop_losses(dropped.table, read_traits(session, dropped.table), table, read_traits(session, table))
    )
