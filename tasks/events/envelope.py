"""Reads and checks the texts, versions and times of an envelope. Refuses values of another type."""

import re
from datetime import UTC, datetime

import msgspec

from sluice.tasks.api import Version
from sluice.tasks.events.strict_json import MAX_INTEGER, MIN_INTEGER, DecodeError

MAX_CHARACTERS = 255
"""Limit for ids, keys and types, which are indexed, listed and sent in headers."""

MAX_SOURCE_CHARACTERS = 2_048
"""Limit for a CloudEvents source: the usual limit of URLs. The source is not indexed."""

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,18})")
_RFC_3339 = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9:]{8})(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})")
_TIME = "an RFC 3339 timestamp with an offset, as in 2026-01-31T10:00:00Z"
_VERSION = f"an integer or {_TIME}"
_MICROSECOND_CHARACTERS = 7  # a point and six digits
_USUAL_CHARACTERS = len("2026-01-31T10:00:00.123456Z")
_read_time = msgspec.json.Decoder(datetime).decode


def require_text(name: str, value: object, limit: int = MAX_CHARACTERS) -> str:
    """Returns a string of 1 to `limit` characters without NUL. Null counts as missing. Raises DecodeError."""
    if type(value) is str and 0 < len(value) <= limit and "\0" not in value:
        return value
    if value is None:
        raise DecodeError(f"{name} is missing")
    if type(value) is not str:
        raise DecodeError(f"{name} must be a string")
    if not value:
        raise DecodeError(f"{name} is empty")
    if len(value) > limit:
        raise DecodeError(f"{name} has {len(value)} characters, the limit is {limit}")
    raise DecodeError(f"{name} contains the character NUL")


def optional_text(name: str, value: object, limit: int = MAX_CHARACTERS) -> str | None:
    """Returns what `require_text` returns, but None if the value is missing or null."""
    return None if value is None else require_text(name, value, limit)


def readable_text(value: object, limit: int = MAX_CHARACTERS) -> str | None:
    """Returns the text if it is valid, else None. For lists of refused records."""
    try:
        return optional_text("", value, limit)
    except DecodeError:
        return None


def parse_version(name: str, value: object) -> Version | None:
    """Returns an integer or an RFC 3339 time in UTC. Refuses times finer than microseconds."""
    if value is None or type(value) is int:
        return value
    if type(value) is not str:
        raise DecodeError(f"{name} must be {_VERSION}")
    if _INTEGER.fullmatch(value):
        raise DecodeError(f"{name} must be a number: write the integer without quotes")
    return _parse_timestamp(name, value, _VERSION, exact=True)


def parse_version_text(name: str, value: object) -> Version | None:
    """Parses a version as `parse_version` does, but also accepts an integer in a text, as in CloudEvents."""
    if type(value) is str and _INTEGER.fullmatch(value):
        number = int(value)
        if not MIN_INTEGER <= number <= MAX_INTEGER:
            raise DecodeError(f"{name} does not fit 64 bits")
        return number
    return parse_version(name, value)


def parse_time(name: str, value: object) -> datetime | None:
    """Returns an RFC 3339 time in UTC, truncated to microseconds (many clocks use nanoseconds)."""
    if value is None:
        return None
    if type(value) is not str:
        raise DecodeError(f"{name} must be {_TIME}")
    return _parse_timestamp(name, value, _TIME, exact=False)


def _parse_timestamp(name: str, text: str, expected: str, *, exact: bool) -> datetime:
    try:
        moment = _read_time(f'"{text if _is_usual(text) else _usual_form(name, text, expected, exact)}"')
        return moment if moment.tzinfo is UTC else moment.astimezone(UTC)
    except (msgspec.MsgspecError, UnicodeEncodeError, OverflowError):
        if _RFC_3339.fullmatch(text) is None:
            raise DecodeError(f"{name} must be {expected}") from None
        raise DecodeError(f"{name} is not a time in the years 1 to 9999") from None


def _is_usual(text: str) -> bool:
    """Returns True for most timestamps. Of these texts, msgspec accepts exactly those of the pattern."""
    return text[-1:] == "Z" and text[10:11] == "T" and len(text) <= _USUAL_CHARACTERS and "\\" not in text


def _usual_form(name: str, text: str, expected: str, exact: bool) -> str:
    """Returns the timestamp without the digits below microseconds. Raises DecodeError."""
    # The pattern refuses forms that msgspec accepts: no offset, a space for T, an offset without colon, and
    # more than six digits, which msgspec rounds (up to the next second, even the next year).
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise DecodeError(f"{name} must be {expected}")
    start, fraction, offset = match.groups()
    if fraction is None or len(fraction) <= _MICROSECOND_CHARACTERS:
        return text
    if exact and fraction[_MICROSECOND_CHARACTERS:].strip("0"):
        raise DecodeError(f"{name} is finer than microseconds")
    return str(start + fraction[:_MICROSECOND_CHARACTERS] + offset)
