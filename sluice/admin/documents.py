"""Rows of Postgres as JSON documents."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from sluice.runtime.terminal_text import text_or_base64


def as_json(value: Any) -> str:
    """Returns a JSON document, with times as ISO 8601 and identities as text."""
    return msgspec.json.encode(value).decode()


def payload_field(name: str, payload: memoryview) -> dict[str, Any]:
    """Returns {name: JSON}, else {`name_text`: text}, else {`name_base64`: base64}."""
    raw = bytes(payload)
    try:
        return {name: msgspec.json.decode(raw)}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        ((found, text),) = text_or_base64(name, raw).items()
        return {f"{name}_text" if found == name else found: text}


def documents(rows: Sequence[NamedTuple]) -> list[dict[str, Any]]:
    """Returns named tuples as JSON objects."""
    return [row._asdict() for row in rows]
