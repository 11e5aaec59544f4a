"""Turns the rows of an assumed fold into the rows of the statements that write them. Pure."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Table

from sluice.db.apply.assumed_rows import CountedRow, InsertedRow, WholeRow
from sluice.db.tables import Shape, shape_of
from sluice.db.values import add_exactly
from sluice.tasks.fold.assumed_fold import AssumedFold, AssumedRow


@dataclass(slots=True)
class TableWrites:
    """The rows to write of one table, by statement."""

    whole: list[WholeRow] = field(default_factory=list)
    counted: list[CountedRow] = field(default_factory=list)
    inserted: list[InsertedRow] = field(default_factory=list)


def writes_by_table(folded: AssumedFold) -> dict[Table, TableWrites]:
    """Returns the rows, by table and key in a fixed order, so that two transactions cannot deadlock."""
    by_table: defaultdict[Table, list[tuple[str, AssumedRow]]] = defaultdict(list)
    for (table, key), row in folded.rows.items():
        by_table[table].append((key, row))
    in_order = sorted(by_table.items(), key=lambda item: item[0].name)
    return {table: _writes(shape_of(table), sorted(rows, key=_key)) for table, rows in in_order}


def _key(row: tuple[str, AssumedRow]) -> str:
    return row[0]


def _writes(shape: Shape, rows: Sequence[tuple[str, AssumedRow]]) -> TableWrites:
    made = TableWrites()
    names, counters = shape.fields, shape.row_columns[len(shape.fields) :]
    zero = [0] * len(counters)
    for key, row in rows:
        sums = [row.sums.get(name, 0) for name in counters] if row.sums else zero
        if row.fields is None:
            made.counted.append(CountedRow(key, sums))
            continue
        fields = [row.fields[name] for name in names]
        if row.inserted_hash is None:
            made.whole.append(WholeRow(key, row.older_than, row.version, fields, sums))
        else:
            values = [
                add_exactly(shape.defaults[name], one) for name, one in zip(counters, sums, strict=True)
            ]
            made.inserted.append(InsertedRow(key, row.version, row.inserted_hash, fields, values))
    return made
