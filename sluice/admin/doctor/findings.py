"""The findings that the rules of `sluice doctor` return. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How bad a finding is.

    error: this deployment does not work, or is unsafe, and it can repair the problem. warning: a
    possible mistake. note: a problem that only another deployment can repair.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True)
class Finding:
    """A problem in one sentence, and the advice in another."""

    severity: Severity
    problem: str
    advice: str


def error(problem: str, advice: str) -> Finding:
    """Returns a finding with which `doctor` exits with code 1."""
    return Finding(Severity.ERROR, problem, advice)


def warning(problem: str, advice: str) -> Finding:
    """Returns a finding that does not change the exit code."""
    return Finding(Severity.WARNING, problem, advice)


def note(problem: str, advice: str) -> Finding:
    """Returns a finding that no command of this deployment can repair; the exit code stays 0."""
    return Finding(Severity.NOTE, problem, advice)


def graded(is_ours: bool, problem: str, advice: str) -> Finding:
    """Returns an error, or a note if the handlers of this command do not declare the subject of
    the finding.
    """
    if is_ours:
        return error(problem, advice)
    return note(
        problem,
        f"{advice} Do this in a deployment whose handlers declare it; the handlers of this command do not.",
    )


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Returns errors, then warnings, then notes."""
    return sorted(findings, key=lambda finding: list(Severity).index(finding.severity))
