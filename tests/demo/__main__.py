"""`python -m tests.demo`: starts everything, plays the scenarios, prints what was found, ends everything."""

import shutil
import sys
from pathlib import Path

from rich.console import Console

from sluice.admin.init import initialise
from sluice.stack import Stack, StackError
from sluice.tasks.fold.registry import collect_handlers
from tests.demo.outgoing import play_3, play_6
from tests.demo.rebuilding import play_5
from tests.demo.scenarios import INCOMING, look_at_all
from tests.demo.storming import play_7
from tests.demo.verdict import ScenarioResult, result_table
from tests.harness.deployment import Deployment
from tests.harness.local_run import LocalRun
from tests.harness.providers import Providers

ROOT = Path(".sluice/demo").absolute()
HANDLERS = "examples.shop.before_the_fix"  # as in the two weeks before scenario 5
PARTITIONS = 6


def main() -> int:
    """The exit code: 0 if everything found was what was expected."""
    console = Console()
    # What an earlier demo left, even one that was killed: its own stack, never another.
    stack = Stack(ROOT / "stack", report=lambda line: console.print(f"  {line}", style="dim"))
    stack.down(wipe=True)
    shutil.rmtree(ROOT / "run", ignore_errors=True)
    verdicts: list[ScenarioResult] = []
    try:
        console.print("Starting Kafka, Postgres and Redis")
        urls = stack.up()
        registry = collect_handlers(HANDLERS)
        with (
            Providers(ROOT / "run") as providers,
            LocalRun(urls, ROOT / "run", handlers=HANDLERS, environment=providers.environ()) as run,
        ):
            deployment = Deployment(urls, registry, run)
            try:
                initialise(urls, registry, partitions=PARTITIONS)
                for play in INCOMING:
                    verdicts += play(deployment, console.print)
                verdicts += play_3(deployment, stack, console.print)
                verdicts += play_6(deployment, providers, console.print)
                verdicts += play_5(deployment, providers, console.print)
                verdicts += play_7(deployment, providers, stack, console.print)
                verdicts += look_at_all(deployment, console.print)
            finally:
                deployment.close()
    except StackError as error:
        console.print(str(error), style="red")
        return 2
    finally:
        stack.down(wipe=True)
    console.print(result_table(verdicts))
    return 0 if all(verdict.ok for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
