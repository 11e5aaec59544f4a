"""Runs scenarios one after another. If a scenario fails, the report names it, and the next scenario runs."""

import time
from collections.abc import Callable, Iterator, Sequence
from textwrap import wrap
from typing import NamedTuple

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from tests.demo.outgoing import play_3, play_6
from tests.demo.rebuilding import play_5
from tests.demo.report import Check, Played, clock
from tests.demo.scenarios import look_at_all, play_1a, play_1b, play_2, play_4
from tests.demo.stage import Do, Stage
from tests.demo.storming import play_7


class Scenario(NamedTuple):
    """One scenario. `in_fast`: the fast demo runs the scenario, too."""

    number: str
    title: str
    play: Callable[[Stage], Iterator[Check]]
    in_fast: bool = False


SCENARIOS = (
    Scenario("1a", "An event is delivered twice: a second charge", play_1a, in_fast=True),
    Scenario("1b", "A late event is repeated: an old balance", play_1b),
    Scenario("2", "Two writers change one row: phantom stock", play_2, in_fast=True),
    Scenario("4", "Changes arrive out of order: new data replaced by old", play_4),
    Scenario("3", "State and message are written separately: a ghost order", play_3, in_fast=True),
    Scenario("6", "Side effects are repeated: a second charge", play_6, in_fast=True),
    Scenario("5", "History is replayed: a corrupted table", play_5),
    Scenario("7", "Random faults in all services and processes", play_7),
    Scenario("all", "The data after all scenarios", look_at_all, in_fast=True),
)


class ProgressLog:
    """Prints each step on stderr, with the time since the start. Shows a running clock on a terminal."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.console = Console(stderr=True, markup=False, highlight=False, emoji=False)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("")

    def __enter__(self) -> "ProgressLog":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self._began

    def begin(self, description: str) -> None:
        """Sets the text beside the running clock."""
        self._bar.update(self._task, description=description)

    def say(self, text: str, *, of: str = "") -> None:
        """Prints one line. `of` is the number of the scenario."""
        head = f"{clock(self.seconds):>6}  {of:<4}"
        lines = wrap(text, max(20, self.console.width - len(head))) or [""]
        self.console.print(Text(head + f"\n{' ' * len(head)}".join(lines), "dim"))


def play_all(
    scenarios: Sequence[Scenario],
    make_stage: Callable[[Do], Stage],
    progress: ProgressLog,
    played: list[Played],
) -> None:
    """Runs the scenarios. Appends the result of each scenario to `played`, even if the scenario fails."""
    for place, scenario in enumerate(scenarios, start=1):
        done: list[str] = []

        def do(text: str, done: list[str] = done, number: str = scenario.number) -> None:
            done.append(text)
            progress.say(text, of=number)

        progress.begin(f"scenario {place} of {len(scenarios)}: {scenario.title}")
        began, checks, reason = time.monotonic(), list[Check](), None
        stage = make_stage(do)
        try:
            for check in scenario.play(stage):
                checks.append(check)
        except Exception as error:
            reason = failure_reason(error)
            progress.say(f"failed: {reason}", of=scenario.number)
            _recover(stage, progress)
        except KeyboardInterrupt:
            reason = "interrupted"
            raise
        finally:
            seconds = time.monotonic() - began
            result = Played(scenario.number, scenario.title, tuple(done), tuple(checks), seconds, reason)
            played.append(result)


def failure_reason(error: Exception) -> str:
    """Returns the first line of an error. The other lines quote the ends of logs."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _recover(stage: Stage, progress: ProgressLog) -> None:
    try:
        stage.recover()
    except Exception as error:
        progress.say(f"the cleanup failed, so the next scenario may fail, too: {failure_reason(error)}")
