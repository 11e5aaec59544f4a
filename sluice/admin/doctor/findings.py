"""What a rule of `sluice doctor` says: one thing that is wrong, and what to do about it. Pure."""

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """error: it does not work, or not safely. warning: it may not be what was meant."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: one sentence what, one sentence what to do."""

    severity: Severity
    problem: str
    advice: str


def error(problem: str, advice: str) -> Finding:
    """A finding that makes `doctor` end with exit code 1."""
    return Finding(Severity.ERROR, problem, advice)


def warning(problem: str, advice: str) -> Finding:
    """A finding that does not."""
    return Finding(Severity.WARNING, problem, advice)
