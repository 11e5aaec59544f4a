"""`python -m tests.demo`: starts servers, runs the scenarios, prints a report and ends the servers."""

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
from sluice.admin.kafka_rights import grant_rights
from sluice.stack import Stack, StackError
from sluice.stack.secure_kafka import USER
from sluice.tasks.fold.registry import collect_handlers
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import LocalRun
from tests.demo.playing import SCENARIOS, ProgressLog, play_all
from tests.demo.report import WIDTH, Played, document, report
from tests.demo.stage import FAST_SIZES, Sizes, Stage
from tests.harness.processes import Zygote
from tests.harness.providers import Providers

ROOT = Path(".sluice/demo").absolute()
HANDLERS = "examples.shop.before_the_fix"  # They compute a wrong tax until scenario 5.
PARTITIONS = 6
FAILED_EXIT_CODE, NO_SERVERS_EXIT_CODE, INTERRUPTED_EXIT_CODE = 1, 2, 130


def main() -> int:
    """Returns the exit code: 0 if all scenarios end without an error and all their checks hold."""
    options = _options()
    signal.signal(signal.SIGTERM, _interrupt)
    # The broker runs for a few minutes. Full compilation would take half of its CPU time for little gain.
    os.environ.setdefault("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1")
    played: list[Played] = []
    code = 0
    with ProgressLog() as progress:
        try:
            _play(options.fast, options.secure, progress, played)
        except StackError as error:
            progress.console.print(str(error), style="red")
            return NO_SERVERS_EXIT_CODE
        except KeyboardInterrupt:
            progress.say("interrupted; the report contains only the scenarios that ran before")
            code = INTERRUPTED_EXIT_CODE
        seconds = progress.seconds
    if options.json:
        print(json.dumps(document(played, seconds)))
    else:
        Console(width=WIDTH, markup=False, highlight=False, emoji=False).print(report(played, seconds))
    return code or (0 if all(one.ok for one in played) else FAILED_EXIT_CODE)


def _play(is_fast: bool, is_secure: bool, progress: ProgressLog, played: list[Played]) -> None:
    # Deletes the stack of an earlier demo, because a killed demo leaves one. No other stack is affected.
    Stack(ROOT / "stack", report=progress.say).down(wipe=True)
    stack = Stack(ROOT / "stack", report=progress.say, secure=is_secure)
    shutil.rmtree(ROOT / "run", ignore_errors=True)
    progress.begin("starting the servers")
    try:
        with closing(Zygote()) as zygote, Providers(ROOT / "run", start=zygote.start) as providers:
            urls = stack.up()
            if is_secure:
                grant_rights(stack.kafka_admin_access(), USER)
            registry = collect_handlers(HANDLERS)
            run = LocalRun(
                urls, ROOT / "run", handlers=HANDLERS, environment=providers.environ(), start=zygote.start
            )
            with (
                run,
                closing(
                    Deployment(urls, registry, run, redis_admin_url=stack.redis_admin_url())
                ) as deployment,
            ):
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
        description="Runs scenarios with faults on real servers, and compares the results with the expected"
        " results. Exit code 1 if a scenario or a check fails, 2 if a server does not start.",
        epilog=f"After a run, the logs of the processes are in {ROOT.relative_to(Path.cwd())}/run.",
    )
    parser.add_argument("--fast", action="store_true", help="run four of the scenarios, with fewer events")
    parser.add_argument("--secure", action="store_true", help="use servers with TLS, logins and least rights")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the report")
    return parser.parse_args()


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
