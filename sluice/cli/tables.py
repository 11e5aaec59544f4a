"""Lays out tables: in columns, or on a narrow terminal as a block of lines per row. Pure.

Words are not broken. A terminal itself wraps a line that is too long, so an identifier in it can
still be copied.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from rich.cells import cell_len

from sluice.runtime.terminal_text import UTF_8, shown

GAP = "  "
LEAST_FOLDED = 24  # minimum width of a column of sentences; else rows become blocks of lines
MOST_CHARACTERS = 300  # maximum length of a value in a table


@dataclass(frozen=True)
class Table:
    """Rows of values. `folded` names the columns of sentences; a sentence may take several lines of a row.

    `right` names the columns of numbers. `whole` is the command or option that prints long values uncut.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[object]]
    folded: frozenset[str] = frozenset()
    right: frozenset[str] = frozenset()
    whole: str = "--json"


def table_of(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    folded: Iterable[str] = (),
    right: Iterable[str] = (),
    whole: str = "--json",
) -> Table:
    """Returns the table; None in a row is shown as "-"."""
    return Table(headings, list(rows), frozenset(folded), frozenset(right), whole)


def table_lines(table: Table, *, width: int | None = None, encoding: str = UTF_8) -> list[str]:
    """Returns the table in lines of at most this width, if its words allow it. None means any width."""
    rows = [[_cut(shown(value, encoding), encoding) for value in row] for row in table.rows]
    lines = _in_columns(table, rows, width)
    if lines is None:
        lines = _in_blocks(table, rows)
    if any(len(shown(value, encoding)) > MOST_CHARACTERS for row in table.rows for value in row):
        lines.append(
            f"values of more than {MOST_CHARACTERS} characters are cut; {table.whole} prints them whole"
        )
    return lines


def _cut(text: str, encoding: str) -> str:
    if len(text) <= MOST_CHARACTERS:
        return text
    return text[:MOST_CHARACTERS] + shown("…", encoding) + f"(+{len(text) - MOST_CHARACTERS:,})"


def _in_columns(table: Table, rows: Sequence[Sequence[str]], width: int | None) -> list[str] | None:
    """Returns the lines of the table; None if the columns need more than the width."""
    folded = [heading in table.folded for heading in table.headings]
    columns = list(zip(table.headings, *rows, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    over = 0 if width is None else sum(widths) + len(GAP) * (len(widths) - 1) - width
    # The widest column of sentences becomes narrower first.
    for at in sorted((at for at, is_folded in enumerate(folded) if is_folded), key=lambda at: -widths[at]):
        if over > 0:
            narrow = max(LEAST_FOLDED, _widest_word(columns[at]), widths[at] - over)
            over -= widths[at] - narrow
            widths[at] = narrow
    if over > 0:
        return None
    lines = []
    for row in (table.headings, *rows):
        cells = [fold(cell, widths[at]) if folded[at] else [cell] for at, cell in enumerate(row)]
        for parts in zip_longest(*cells, fillvalue=""):
            padded = (
                _padded(part, widths[at], right=table.headings[at] in table.right)
                for at, part in enumerate(parts)
            )
            lines.append(GAP.join(padded).rstrip())
    return lines


def _in_blocks(table: Table, rows: Sequence[Sequence[str]]) -> list[str]:
    lines: list[str] = []
    for row in rows:
        lines += [f"{heading}: {cell}" for heading, cell in zip(table.headings, row, strict=True) if cell]
        lines.append("")
    return lines[:-1]


def fold(text: str, width: int) -> list[str]:
    """Returns the text in lines of at most this width, broken only at spaces; a longer word is a line."""
    if cell_len(text) <= width:
        return [text]
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and cell_len(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _widest_word(cells: Sequence[str]) -> int:
    return max((cell_len(word) for cell in cells for word in cell.split(" ")), default=0)


def _padded(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - cell_len(text))
    return space + text if right else text + space
