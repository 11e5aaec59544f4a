r"""Formats values for a terminal, and makes JSON safe for a terminal. Pure.

Control characters, invisible characters, and characters that the encoding of the output lacks are shown as
escapes: `\n`, `\x1b`, `\u202e`, `\U000e0041`.
"""

import base64
import re
from collections.abc import Callable
from datetime import datetime
from enum import Enum

import msgspec

UTF_8 = "utf-8"
ABSENT = "-"
# Characters that Python treats as printable, but that are invisible: Unicode's Default_Ignorable_Code_Point,
# and the blank Braille pattern.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def plural(number: int, one: str, several: str | None = None) -> str:
    """Returns the words for this number of things, without the number. `several` is `one` with an s."""
    return one if number == 1 else several or f"{one}s"


def counted(number: int, one: str, several: str | None = None) -> str:
    """Returns the number and its words, as in `1 row` and `2,000 rows`."""
    return f"{number:,} {plural(number, one, several)}"


def shown(value: object, encoding: str = UTF_8) -> str:
    """Returns the value as one line of text, with the characters above as escapes.

    Bytes are shown as text if they are UTF-8, else as `base64:` and their base64. None is shown as "-", a
    time in ISO 8601, and a list or mapping as JSON. `encoding` is the encoding of the output.
    """
    if isinstance(value, (dict, list, tuple)):
        return shown_json(msgspec.json.encode(value).decode(), encoding)
    return _escaped(_text_of(value), encoding, _escape)


def shown_json(document: str, encoding: str = UTF_8) -> str:
    r"""Returns an equivalent JSON text in which the characters above are JSON escapes, as in `\u001b`."""
    return _escaped(document, encoding, _json_escape)


def text_or_base64(name: str, raw: bytes) -> dict[str, str]:
    """Returns {name: text} if the bytes are UTF-8, else {"<name>_base64": base64}."""
    try:
        return {name: raw.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(raw).decode()}


def _text_of(value: object) -> str:
    if value is None:
        return ABSENT
    if isinstance(value, (bytes, bytearray, memoryview)):
        ((name, text),) = text_or_base64("", bytes(value)).items()
        return f"base64:{text}" if name else text
    if isinstance(value, Enum):
        return str(value.value)
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _escaped(text: str, encoding: str, escape: Callable[[str], str]) -> str:
    if text.isascii() and text.isprintable():
        return text
    if not text.isprintable() or _INVISIBLE.search(text):
        text = "".join(char if _is_visible(char) else escape(char) for char in text)
    if _has(encoding, text):
        return text
    return "".join(char if _has(encoding, char) else escape(char) for char in text)


def _is_visible(char: str) -> bool:
    return char.isprintable() and not _INVISIBLE.match(char)


def _has(encoding: str, text: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def _escape(char: str) -> str:
    number = ord(char)
    if char in _SHORT:
        return _SHORT[char]
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _json_escape(char: str) -> str:
    # JSON escapes a character above U+FFFF as two surrogates.
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
