"""The report of the demo: for each scenario the steps, the expected results and the actual results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from signal import Signals
from typing import Any, TypeAlias

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Words: TypeAlias = Callable[[Any], str]
"""Returns a value in words, with its unit."""

WIDTH = 80
VERDICT_WIDTH, MUST_WIDTH = 6, 38
MOST_DIFFERENCES = 3


@dataclass(frozen=True)
class Check:
    """An expected and an actual result. `must` describes the expected result; `{}` stands for its value."""

    must: str
    expected: Any
    found: Any
    words: Words

    @property
    def ok(self) -> bool:
        """True if the actual result equals the expected result."""
        return bool(self.expected == self.found)

    def must_text(self) -> str:
        """Returns the expected result as a sentence."""
        return self.must.replace("{}", self.words(self.expected))

    def found_text(self) -> str:
        """Returns the actual result in words."""
        return self.words(self.found)


@dataclass(frozen=True)
class Played:
    """The result of a scenario. `reason`: why the scenario ended before its last check, or None."""

    number: str
    title: str
    done: tuple[str, ...]
    checks: tuple[Check, ...]
    seconds: float
    reason: str | None = None

    @property
    def ok(self) -> bool:
        """True if the scenario reached its last check and all its checks hold."""
        return self.reason is None and all(check.ok for check in self.checks)


def count(one: str) -> Words:
    """Returns a function that prints a number with a noun: "1 row", "6,000 rows", "no rows"."""
    return lambda number: f"no {one}s" if number == 0 else f"{number:,} {one}{'' if number == 1 else 's'}"


def counts(numbers: Mapping[str, int]) -> str:
    """Prints a number for each kind: "6,000 applied, 500 duplicate"."""
    return ", ".join(f"{number:,} {kind}" for kind, number in sorted(numbers.items())) or "none"


def fields(row: Mapping[str, object]) -> str:
    """Prints the columns of a row: "email grace@example.org, name Grace"."""
    return ", ".join(f"{name} {value}" for name, value in sorted(row.items()))


def cents(amount: int) -> str:
    """Prints an amount of money: "170,000 cents"."""
    return f"{amount:,} cents"


def each(one: str, of: str) -> Words:
    """Returns a function that prints a histogram: "1 capture for each of 60 payments"."""

    def words(histogram: Mapping[int, int]) -> str:
        if len(histogram) == 1:
            ((number, others),) = histogram.items()
            return f"{count(one)(number)} for each of {count(of)(others)}"
        parts = [f"{count(one)(n)} for {count(of)(others)}" for n, others in sorted(histogram.items())]
        return ", ".join(parts) or f"no {of}s"

    return words


def ending(exit_code: int | None) -> str:
    """Prints how a process ended: "killed by SIGKILL"."""
    if exit_code is None:
        return "it still runs"
    return f"killed by {Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"


def differences(found: Sequence[str]) -> str:
    """Prints the number of differences and the first of them: "no difference", "1 difference: …"."""
    if not found:
        return "no difference"
    more = len(found) - MOST_DIFFERENCES
    named = "; ".join(found[:MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
    return f"{count('difference')(len(found))}: {named}"


def duration(seconds: float) -> str:
    """Prints a duration: "41 s", "2 min 41 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def clock(seconds: float) -> str:
    """Prints a duration in minutes and seconds: "2:41"."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02}"


def report(played: Sequence[Played], seconds: float) -> RenderableType:
    """Returns the report as tables for a terminal of WIDTH columns."""
    return Group(*(_scenario(one) for one in played), _summary(played, seconds))


def document(played: Sequence[Played], seconds: float) -> dict[str, Any]:
    """Returns the report as a JSON document."""
    return {
        "ok": all(one.ok for one in played),
        "seconds": round(seconds, 1),
        "scenarios": [
            {
                "scenario": one.number,
                "title": one.title,
                "ok": one.ok,
                "seconds": round(one.seconds, 1),
                "done": one.done,
                "reason": one.reason,
                "checks": [
                    {"must": check.must_text(), "found": check.found_text(), "ok": check.ok}
                    for check in one.checks
                ],
            }
            for one in played
        ],
    }


def summary(played: Sequence[Played], seconds: float) -> str:
    """Returns one sentence about all scenarios."""
    checks = [check for one in played for check in one.checks]
    held = sum(check.ok for check in checks)
    failed = ", ".join(one.number for one in played if not one.ok)
    return (
        f"{held} of {count('check')(len(checks))} hold in {count('scenario')(len(played))},"
        f" {duration(seconds)}." + (f" Failed: {failed}." if failed else "")
    )


def _summary(played: Sequence[Played], seconds: float) -> Text:
    style = "green" if all(one.ok for one in played) else "red"
    return Text(summary(played, seconds), style=f"bold {style}")


def _scenario(one: Played) -> RenderableType:
    head = Table.grid(expand=True, padding=(0, 1))
    head.add_column(width=3)
    head.add_column(ratio=1)
    head.add_column(justify="right")
    verdict = _verdict(one.ok).append(f"  {duration(one.seconds)}", style="default")
    head.add_row(Text(one.number, "bold"), Text(one.title, "bold"), verdict)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("", width=VERDICT_WIDTH)
    table.add_column("must be true", width=MUST_WIDTH, overflow="fold")
    table.add_column("found", overflow="fold")
    for check in one.checks:
        table.add_row(_verdict(check.ok), Text(check.must_text()), Text(check.found_text()))
    if one.reason is not None:
        table.add_row(_verdict(False), Text("The scenario reaches its last check."), Text(one.reason))
    body = Group(Text(f"Done: {' '.join(one.done)}"), table)
    return Padding(Group(head, Padding(body, (0, 0, 0, 4))), (0, 0, 1, 0))


def _verdict(is_ok: bool) -> Text:
    return Text("ok", style="green") if is_ok else Text("FAILED", style="red")
