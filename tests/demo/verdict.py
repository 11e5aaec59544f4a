"""What a scenario says of itself: expected beside found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class ScenarioResult:
    """One line of the demo's table."""

    scenario: str
    done_to_it: str
    expected: Any
    found: Any

    @property
    def ok(self) -> bool:
        """Whether what was found is what must be true."""
        return bool(self.expected == self.found)


def result_table(verdicts: Sequence[ScenarioResult]) -> Table:
    """The lines as a table for the terminal."""
    table = Table(title="The scenarios, and what became of them", show_lines=True)
    for column in ("scenario", "done to it", "expected", "found", "ok"):
        table.add_column(column, overflow="fold")
    for verdict in verdicts:
        mark = "[green]yes[/green]" if verdict.ok else "[red]NO[/red]"
        table.add_row(verdict.scenario, verdict.done_to_it, str(verdict.expected), str(verdict.found), mark)
    return table
