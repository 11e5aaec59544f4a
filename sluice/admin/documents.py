"""Rows of Postgres as JSON documents."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec


def as_json(value: Any) -> str:
    """One JSON document: times as ISO 8601, identities as text."""
    return msgspec.json.encode(value).decode()


def documents(rows: Sequence[NamedTuple]) -> list[dict[str, Any]]:
    """Named tuples as JSON objects."""
    return [row._asdict() for row in rows]
