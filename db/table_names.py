"""Finds collisions between names of tables, indexes, constraints and types in schema public. Pure."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sqlalchemy import Constraint, Enum, Index, PrimaryKeyConstraint, Table, UniqueConstraint
from sqlalchemy.exc import IdentifierError, SQLAlchemyError

from sluice.db.table_rules import DIALECT, name_problem
from sluice.db.tables import TableRefused, has_shape, is_projection, shape_of


class _Claim(NamedTuple):
    """A name that is used.

    `is_chosen`: True if Postgres chooses the name. If the name is already used, Postgres chooses another
    name.
    """

    name: str
    owner: str
    is_chosen: bool = False


def require_usable_names(tables: Iterable[Table]) -> None:
    """Raises TableRefused if a name cannot be used, or if two objects would have the same name.

    Call it when all tables exist, because columns and indexes may be added after a table was made.
    """
    in_public = sorted((t for t in tables if t.schema in (None, "public")), key=lambda table: table.name)
    relations: list[_Claim] = []
    types: set[_Claim] = set()
    for table in in_public:
        if has_shape(table):
            _require_columns_of_before(table)
        claim = _Claim(table.name, f"{'projection' if is_projection(table) else 'table'} {table.name}")
        relations += [claim, *_indexes(table)]
        types |= {claim, *_enums(table)}
        _require_distinct(list(_constraints(table)))
    _require_distinct(relations)
    _require_distinct(sorted(types))
    projections = {table.name for table in in_public if is_projection(table)}
    _require_free_for_generations(projections, relations)
    for table in in_public:
        for key in table.foreign_keys:
            try:
                target = key.column.table.name
            except SQLAlchemyError as error:
                raise TableRefused(f"table {table.name}: {error}") from error
            if target in projections:
                raise TableRefused(
                    f"table {table.name}: a foreign key references projection {target}, which is"
                    " a view; remove the foreign key"
                )


def _require_columns_of_before(table: Table) -> None:
    if added := [column.name for column in table.columns if column.name not in shape_of(table).types]:
        raise TableRefused(
            f"table {table.name}: column {added[0]} was added after the table was made; pass the column to"
            " the function that makes the table"
        )


def _indexes(table: Table) -> Iterator[_Claim]:
    """Yields the names of indexes. Such a name must be unique in the schema, and not only in its table."""
    for constraint in table.constraints:
        if isinstance(constraint, PrimaryKeyConstraint | UniqueConstraint):
            name = _name_of(constraint, table)
            ending = "pkey" if isinstance(constraint, PrimaryKeyConstraint) else "key"
            columns = [] if ending == "pkey" else [column.name for column in constraint.columns]
            default = "_".join([table.name, *columns, ending])
            yield _Claim(name or default, f"a constraint of table {table.name}", is_chosen=name is None)
    if not is_projection(table):  # Sluice itself chooses the names of indexes of generations
        for index in table.indexes:
            if name := _name_of(index, table):
                yield _Claim(name, f"an index of table {table.name}")


def _constraints(table: Table) -> Iterator[_Claim]:
    for constraint in table.constraints:
        if name := _name_of(constraint, table):
            yield _Claim(name, f"a constraint of table {table.name}")


def _enums(table: Table) -> Iterator[_Claim]:
    """Yields the names of Enum types.

    These must differ from table names, because each table has a type of its name.
    """
    for column in table.columns:
        if isinstance(column.type, Enum) and column.type.native_enum and column.type.name:
            yield _Claim(column.type.name, f"an Enum of {', '.join(column.type.enums)}")


def _name_of(thing: Constraint | Index, table: Table) -> str | None:
    """Returns the name in Postgres. SQLAlchemy may have shortened it. None if Postgres chooses the name."""
    if not isinstance(thing.name, str):
        return None
    try:
        name = DIALECT.identifier_preparer.format_constraint(thing, _alembic_quote=False)
    except IdentifierError:
        name = thing.name
    if has_shape(table) and (problem := name_problem(str(name))):
        what = "index" if isinstance(thing, Index) else "constraint"
        raise TableRefused(f"table {table.name}: the name of {what} {name!r} {problem}")
    return str(name)


def _require_distinct(claims: Sequence[_Claim]) -> None:
    found: dict[str, list[_Claim]] = defaultdict(list)
    for claim in claims:
        found[claim.name].append(claim)
    for name, same in sorted(found.items()):
        if len(same) > 1 and not all(claim.is_chosen for claim in same):
            owners = " and for ".join(claim.owner for claim in same)
            raise TableRefused(
                f"name {name} is used for {owners}: Postgres allows only one use of a name; give one of"
                " them another name"
            )


def _require_free_for_generations(projections: Iterable[str], claims: Iterable[_Claim]) -> None:
    for projection in projections:
        pattern = re.compile(rf"{re.escape(projection)}_g[0-9]+(_.*)?", re.DOTALL)
        for claim in claims:
            if pattern.fullmatch(claim.name):
                raise TableRefused(
                    f"name {claim.name}, used for {claim.owner}, is reserved for a generation of"
                    f" projection {projection}; choose another name"
                )
