"""`python -m tests.demo`: starts everything, plays the scenarios, reports what was found, ends everything."""

import argparse
import json
import os
import shutil
import signal
import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from sluice.admin.init import initialise
from sluice.stack import Stack, StackError
from sluice.tasks.fold.registry import collect_handlers
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import LocalRun
from tests.demo.playing import SCENARIOS, ProgressLog, play_all
from tests.demo.report import WIDTH, Played, document, report
from tests.demo.stage import FAST_SIZES, Sizes, Stage
from tests.harness.processes import Zygote
from tests.harness.providers import Providers

ROOT = Path(".sluice/demo").absolute()
HANDLERS = "examples.shop.before_the_fix"  # as in the two weeks before scenario 5
PARTITIONS = 6
FAILED_EXIT_CODE, NO_SERVERS_EXIT_CODE, INTERRUPTED_EXIT_CODE = 1, 2, 130


def main() -> int:
    """Returns the exit code: 0 if every check holds."""
    options = _options()
    signal.signal(signal.SIGTERM, _interrupt)
    # A broker of some minutes: half of its CPU would be spent on compiling what is hardly used again.
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
    played: list[Played] = []
    code = 0
    with ProgressLog() as progress:
        try:
            _play(options.fast, progress, played)
        except StackError as error:
            progress.console.print(str(error), style="red")
            return NO_SERVERS_EXIT_CODE
        except KeyboardInterrupt:
            progress.say("interrupted; the report is about the scenarios that were played")
            code = INTERRUPTED_EXIT_CODE
        seconds = progress.seconds
    if options.json:
        print(json.dumps(document(played, seconds)))
    else:
        Console(width=WIDTH, markup=False, highlight=False, emoji=False).print(report(played, seconds))
    return code or (0 if all(one.ok for one in played) else FAILED_EXIT_CODE)


def _play(is_fast: bool, progress: ProgressLog, played: list[Played]) -> None:
    # What an earlier demo left, even one that was killed: its own stack, never another.
    stack = Stack(ROOT / "stack", report=progress.say)
    stack.down(wipe=True)
    shutil.rmtree(ROOT / "run", ignore_errors=True)
    progress.begin("starting the servers")
    try:
        with closing(Zygote()) as zygote, Providers(ROOT / "run", start=zygote.start) as providers:
            urls = stack.up()
            registry = collect_handlers(HANDLERS)
            run = LocalRun(
                urls, ROOT / "run", handlers=HANDLERS, environment=providers.environ(), start=zygote.start
            )
            with run, closing(Deployment(urls, registry, run)) as deployment:
                initialise(urls, registry, partitions=PARTITIONS)
                sizes = FAST_SIZES if is_fast else Sizes()
                scenarios = [one for one in SCENARIOS if one.in_fast or not is_fast]
                play_all(scenarios, partial(Stage, deployment, providers, stack, sizes), progress, played)
    finally:
        progress.begin("stopping the servers")
        stack.down(wipe=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.demo",
        description="Plays what goes wrong with events, on real servers with real faults, and compares what"
        " was found with what must be true. Exit code 1 if a check fails, 2 if a server does not start.",
        epilog=f"Logs of the processes are in {ROOT.relative_to(Path.cwd())}/run afterwards.",
    )
    parser.add_argument("--fast", action="store_true", help="four scenarios with fewer events")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the report")
    return parser.parse_args()


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
