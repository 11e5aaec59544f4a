"""Prints documents and findings; prints and parses ages such as 90s, 10m, 2h or 3d."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from sluice.admin.doctor.findings import Finding
from sluice.admin.documents import as_json
from sluice.cli.output import say
from sluice.runtime.terminal_text import counted, shown_json

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


Full = Annotated[bool, typer.Option("--full", help="Print long values whole.")]
MOST_CHARACTERS = 4_000  # maximum length of a field
MOST_NAMES = 5  # if more names have the same reason, they share a line
MOST_REASONS = 20  # maximum number of reasons in the table of reasons above a list


def field_lines(document: Mapping[str, Any], *, full: bool = True) -> list[str]:
    """Returns a document as one line per field, without empty fields.

    A text of several lines follows its name, indented. Unless `full`, a long value is shortened.
    """
    lines = []
    for name, value in document.items():
        if value in (None, []):
            continue
        text = value if isinstance(value, str) else shown_json(as_json(value))
        left = len(text) - MOST_CHARACTERS
        if left > 0 and not full:
            text = f"{text[:MOST_CHARACTERS]}… ({counted(left, 'character')} more: --full prints them)"
        first, *others = text.split("\n")
        title = f"{name.replace('_', ' ')}: "
        block = [f"    {line}" for line in (first, *others)]
        lines += [title.rstrip(), *block] if others else [title + first]
    return lines


def equal_lines(reasons: Iterable[tuple[str, str]], *, most: int = MOST_NAMES) -> list[str]:
    """Returns (name, reason) pairs as lines. If more than `most` names have the same reason, they
    share a line.
    """
    names: dict[str, list[str]] = {}
    for name, reason in reasons:
        names.setdefault(reason, []).append(name)
    lines = []
    for reason, equal in names.items():
        if len(equal) <= most:
            lines += [f"{name}: {reason}" for name in equal]
        else:
            lines.append(f"{len(equal):,} of them, the first {', '.join(equal[:most])}: {reason}")
    return lines


def say_fields(document: Mapping[str, Any], *, full: bool) -> None:
    """Prints a document for people."""
    say(*field_lines(document, full=full))


def read_age(text: str) -> float:
    """Returns the seconds of an age. Raises BadParameter."""
    found = _AGE.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not an age; pass a number and s, m, h or d, such as 90s or 2h")
    return float(found[1]) * _UNITS[found[2]]


def say_age(seconds: float) -> str:
    """Returns the age, rounded down, in the largest unit of which the age has at least two."""
    for unit, length in reversed(_UNITS.items()):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def finding_lines(finding: Finding) -> list[str]:
    """Returns a finding as lines for people."""
    return [f"{finding.severity.value}: {finding.problem}", f"    {finding.advice}"]


def finding_document(finding: Finding) -> dict[str, str]:
    """Returns a finding for --json."""
    return asdict(finding) | {"severity": finding.severity.value}
