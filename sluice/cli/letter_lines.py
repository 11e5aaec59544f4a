"""Dead letters as lines: as `sluice send` reads them where it can, else with raw bytes. Pure."""

import base64
from typing import Any

import msgspec

from sluice.admin.documents import as_json
from sluice.db.admin.whole_letters import WholeLetter


def letter_line(letter: WholeLetter) -> str:
    """One line of JSON, without its end.

    A record that a line of `sluice send` cannot say is {"topic", "key_base64", "value_base64",
    "headers_base64"}, with null for what is not there: nothing may be sent that was not in the log.
    """
    key, value = (None if part is None else bytes(part) for part in (letter.key, letter.value))
    headers = [(name, None if hexed is None else bytes.fromhex(hexed)) for name, hexed in letter.headers]
    sendable = _sendable(key, value, headers)
    if sendable is not None:
        return as_json({"topic": letter.topic} | sendable)
    return as_json(
        {
            "topic": letter.topic,
            "key_base64": _base64(key),
            "value_base64": _base64(value),
            "headers_base64": [(name, _base64(part)) for name, part in headers],
        }
    )


def _sendable(
    key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes | None]]
) -> dict[str, Any] | None:
    try:
        texts = {name: (part or b"").decode() for name, part in headers}
        key_text = None if key is None else key.decode()
        raw = None if value is None else _one_line(value)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    # A line has each header once, none without a value; its null is a tombstone, which needs a key.
    if len(texts) < len(headers) or any(part is None for _, part in headers):
        return None
    if raw == b"null" or (key is None and raw is None):
        return None
    return {"key": key_text, "value": None if raw is None else msgspec.Raw(raw), "headers": texts}


def _one_line(value: bytes) -> bytes:
    """The same JSON in one line. Raises what msgspec raises if it is none."""
    msgspec.json.decode(value)
    # Within strings JSON has no line ends; elsewhere one space means the same.
    return value.strip().replace(b"\r", b" ").replace(b"\n", b" ")


def _base64(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()
