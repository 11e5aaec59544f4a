"""How commands print values and read them: JSON, lines, tables, and ages such as 90s, 10m, 2h or 3d."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Table

from sluice.admin.doctor.facts import Finding
from sluice.admin.documents import as_json

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)
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


def read_age(text: str) -> float:
    """The seconds of an age. Raises BadParameter."""
    found = _AGE.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no age: a number and s, m, h or d, as in 90s or 2h")
    return float(found[1]) * _UNITS[found[2]]


def say_age(seconds: float) -> str:
    """The age in the largest unit of which there are two, rounded down."""
    for unit, length in reversed(_UNITS.items()):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def print_refusal(refusal: str) -> None:
    """Reports why only commands that read, as this one does, work with this database."""
    typer.echo(f"sluice: {refusal}. Until then no command changes anything here; this one reads", err=True)


def finding_lines(finding: Finding) -> str:
    """A finding for people."""
    return f"{finding.severity.value}: {finding.problem}\n    {finding.advice}"


def finding_document(finding: Finding) -> dict[str, str]:
    """A finding for --json."""
    return asdict(finding) | {"severity": finding.severity.value}
