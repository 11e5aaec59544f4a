"""Turns what the processes of `sluice dev` print into lines for a person. Pure."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

# Fields that `read_lines` does not show as name=value. They have their own position in a line or their own
# lines, the terminal shows them before each line (`process`), or they are left out (`logger`).
OWN_PLACES = ("event", "level", "timestamp", "process", "logger", "exception", "stack")
# Events that a process logs at intervals. Shown only if a figure differs from 0.
INTERVAL_EVENTS = frozenset({"self-check", "purged"})
COLOUR_OF_LEVEL = {"debug": "bright_black", "warning": "yellow", "error": "red", "critical": "red"}
COLOURS_OF_PROCESSES = ("cyan", "green", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")


class LogLine(NamedTuple):
    """One line, and the colour of its text; None is the terminal's own colour."""

    text: str
    colour: str | None = None


def uses_colour(environ: Mapping[str, str], *, is_terminal: bool) -> bool:
    """Returns True if the terminal can show colours and NO_COLOR is not set."""
    return is_terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def read_lines(raw: str) -> list[LogLine]:
    """Returns the lines to show for one printed line.

    A structured log line becomes one line, followed by the lines of its traceback. Any other line
    is unchanged. An event of INTERVAL_EVENTS is left out if all its figures are 0.
    """
    try:
        fields = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return [LogLine(raw)]
    if not isinstance(fields, dict) or not isinstance(fields.get("event"), str):
        return [LogLine(raw)]
    level = str(fields.get("level", "info"))
    colour = COLOUR_OF_LEVEL.get(level)
    values = {name: value for name, value in fields.items() if name not in OWN_PLACES}
    if fields["event"] in INTERVAL_EVENTS and level == "info" and not any(values.values()):
        return []
    details = "".join(f" {name}={_shown(value)}" for name, value in values.items())
    time = _local_time(fields.get("timestamp"))
    lines = [LogLine(f"{time} {level:<7} {fields['event']}{details}", colour)]
    for name in ("exception", "stack"):
        if isinstance(fields.get(name), str):
            lines += [LogLine(f"  {line}", colour) for line in fields[name].splitlines()]
    return lines


def _local_time(timestamp: object) -> str:
    try:
        return f"{datetime.fromisoformat(str(timestamp)).astimezone():%H:%M:%S}"
    except (ValueError, OverflowError):
        return "--:--:--"


def _shown(value: Any) -> str:
    if isinstance(value, str) and value and not any(char.isspace() for char in value):
        return value
    return msgspec.json.encode(value).decode()
