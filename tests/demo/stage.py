"""The servers, processes and sizes that all scenarios share, and the function that reports a step."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

from sluice.stack import Stack
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.demo.report import Check, ending
from tests.harness.providers import Providers

Do: TypeAlias = Callable[[str], None]

FAULT_DEADLINE_SECONDS = 60
KINDS = {"effects": "effects worker", "rebuild": "rebuild worker"}
"""The kind of a process whose name does not begin with its kind."""


class Sizes(NamedTuple):
    """The numbers of events that the scenarios produce."""

    payments: int = 6_000
    sent_twice: int = 500
    sales: int = 3_000
    orders: int = 200
    captures: int = 60


FAST_SIZES = Sizes(payments=1_500, sent_twice=150, sales=800, orders=80, captures=30)


@dataclass(frozen=True)
class Stage:
    """The surroundings of one scenario, which starts the processes that it needs and that do not run."""

    deployment: Deployment
    providers: Providers
    stack: Stack
    sizes: Sizes
    do: Do
    """Reports the next step in one sentence."""

    def read_on(self) -> None:
        """Starts a bridge if none runs."""
        self._ensure("bridge", self.deployment.run.start_bridge)

    def serve(self, *entities: str) -> None:
        """Starts a bridge, and a worker for these entity types, unless they run already."""
        self.read_on()
        queues = self.deployment.queues(*entities)
        self._ensure(f"worker-{'-'.join(entities)}", partial(self.deployment.run.start_worker, queues))

    def send_on(self) -> None:
        """Starts a relay and a beat, unless they run already."""
        self._ensure("relay-1", self.deployment.run.start_relay)
        self._ensure("beat-1", self.deployment.run.start_beat)

    def wait_killed(self, doomed: RunningProcess, when: str) -> Check:
        """Waits until a fault point has killed the process. `when` completes "the worker is killed …"."""
        begin = doomed.name.partition("-")[0]
        kind = KINDS.get(begin, begin)
        self.deployment.wait_until(
            lambda: doomed.exit_code is not None,
            timeout_seconds=FAULT_DEADLINE_SECONDS,
            what=f"the fault point kills the {kind} {when}",
        )
        return Check(f"The {kind} is killed {when}.", -9, doomed.exit_code, ending)

    def recover(self) -> None:
        """Cleans up after a failed scenario: ends processes, removes faults, and starts stopped servers."""
        self.deployment.run.stop_all()
        self.deployment.close()
        self.providers.payments.set_faults()
        self.providers.mail.set_faults()
        self.stack.up()

    def _ensure(self, name: str, start: Callable[..., RunningProcess]) -> None:
        running = {one.name for one in self.deployment.run.processes if one.exit_code is None}
        if name not in running:
            start(name=name)
