"""Plays scenarios one after another. One that fails is reported as failed, and the others go on."""

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
    """One scenario. `in_fast`: also the fast demo plays it."""

    number: str
    title: str
    play: Callable[[Stage], Iterator[Check]]
    in_fast: bool = False


SCENARIOS = (
    Scenario("1a", "An event comes twice: a second charge", play_1a, in_fast=True),
    Scenario("1b", "A late event and its repeats: an old balance", play_1b),
    Scenario("2", "Two writers change one row: phantom stock", play_2, in_fast=True),
    Scenario("4", "Changes come out of order: new data overwritten by old", play_4),
    Scenario("3", "State and message are written apart: a ghost order", play_3, in_fast=True),
    Scenario("6", "Side effects are repeated: charged once more", play_6, in_fast=True),
    Scenario("5", "History is replayed: a corrupted table", play_5),
    Scenario("7", "Everything fails at random: false comfort", play_7),
    Scenario("all", "What all scenarios left", look_at_all, in_fast=True),
)


class ProgressLog:
    """Says on stderr what is done, with the time since the start; a terminal shows a running clock."""

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
        """Since the start."""
        return time.monotonic() - self._began

    def begin(self, description: str) -> None:
        """Names what the running clock is for."""
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
    """Plays the scenarios and appends each to `played`, also if it fails."""
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
    """Returns the first line of an error: what follows are ends of logs."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _recover(stage: Stage, progress: ProgressLog) -> None:
    try:
        stage.recover()
    except Exception as error:
        progress.say(f"the next scenario starts without recovery: {failure_reason(error)}")
