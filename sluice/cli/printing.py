"""How commands print rows of Postgres: as one JSON document, or as lines and tables for people."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from sluice.admin.documents import as_json

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def field_lines(document: Mapping[str, Any]) -> list[str]:
    """A document as one line a field, those that are empty left out."""
    return [
        f"{name.replace('_', ' ')}: {value if isinstance(value, str) else as_json(value)}"
        for name, value in document.items()
        if value not in (None, [])
    ]


def table_of(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table whose cells are folded, never cut; "-" stands for what is not there."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*("-" if cell is None else str(cell) for cell in row))
    return table
