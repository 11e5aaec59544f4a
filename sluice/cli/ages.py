"""Ages as people write and read them: 90s, 10m, 2h, 3d."""

import re

import typer

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.ASCII)


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
