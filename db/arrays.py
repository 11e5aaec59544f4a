"""Columns as Postgres array literals: one parameter per column, however many rows."""

from collections.abc import Iterable


def bare_array(values: Iterable[object]) -> str:
    """An array of integers, uuids or words: nothing in them needs quoting."""
    return "{" + ",".join([str(value) for value in values]) + "}"


def text_array(values: Iterable[str | None]) -> str:
    """An array of any texts; None is NULL."""
    return "{" + ",".join([_quoted(value) for value in values]) + "}"


def _quoted(value: str | None) -> str:
    if value is None:
        return "NULL"
    if "\\" in value or '"' in value:
        value = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{value}"'
