"""Random faults in a deployment: kills its processes, restarts or wipes its servers, delays its provider."""

import random
from collections import Counter
from collections.abc import Callable, Iterator

from examples.shop.generate import KINDS, OutgoingRecord, generate
from examples.shop.outside.faults import Fault
from sluice.stack import Stack
from sluice.stack.service import ServiceName, StopSignal
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess
from tests.harness.providers import Providers

REPEATED_SHARE = 0.1  # share of the events that are produced twice, as if a producer retried them
KEYS = 50
SLOW_SECONDS = 7.0  # more than the effect's timeout


def mixed_events(count: int, *, seed: int) -> Iterator[OutgoingRecord]:
    """Yields events of all kinds, interleaved, some of them twice. The same seed yields the same events."""
    rng = random.Random(seed)
    each = count // len(KINDS)
    sources = [generate(name, count=each, seed=seed, keys=KEYS) for name in KINDS]
    while sources:
        source = rng.choice(sources)
        record = next(source, None)
        if record is None:
            sources.remove(source)
            continue
        yield record
        if rng.random() < REPEATED_SHARE:
            yield record


class Storm:
    """Starts all processes of a deployment. `turn` causes one fault. `done` counts the faults by name."""

    def __init__(
        self, deployment: Deployment, providers: Providers, stack: Stack, rng: random.Random
    ) -> None:
        self._rng, self._deployment, self._stack = rng, deployment, stack
        run = deployment.run
        self._makers: dict[str, Callable[[], RunningProcess]] = {
            "bridge-1": lambda: run.start_bridge(name="bridge-1"),
            "bridge-2": lambda: run.start_bridge(name="bridge-2"),
            "worker-a": lambda: run.start_worker(name="worker-a"),
            "worker-b": lambda: run.start_worker(name="worker-b"),
            "relay-1": lambda: run.start_relay(name="relay-1"),
            "relay-2": lambda: run.start_relay(name="relay-2"),
            "beat-1": lambda: run.start_beat(name="beat-1"),
            "beat-2": lambda: run.start_beat(name="beat-2"),
            "rebuild": lambda: run.start_rebuilds(),
            "effects": lambda: run.start_effects(pool="solo"),
        }
        self.running = {name: make() for name, make in self._makers.items()}
        self.done: Counter[str] = Counter()
        self._harms: dict[str, Callable[[], None]] = {
            "kill": self._kill,
            "flush redis": self._flush,
            "kill redis": lambda: self._restart("redis", "kill"),
            "stop postgres": lambda: self._restart("postgres", "immediate"),
            "stop kafka": lambda: self._restart("kafka", "term"),
            "disturb the provider": lambda: providers.payments.set_faults(self._fault(), self._fault()),
        }

    def turn(self) -> None:
        """Causes one random fault."""
        weights = (20, 3, 1, 1, 1, 4)
        (name,) = self._rng.choices(list(self._harms), weights)
        self.done[name] += 1
        self._harms[name]()

    def _kill(self) -> None:
        name = self._rng.choice(sorted(self.running))
        self.running[name].kill()
        self.running[name] = self._makers[name]()

    def _flush(self) -> None:
        self._deployment.wipe_redis()

    def _restart(self, service: ServiceName, signal: StopSignal) -> None:
        # Closes the connections of this process. The deployment opens new connections when it needs them.
        self._deployment.close()
        self._stack.stop(service, signal=signal)
        self._stack.start(service)

    def _fault(self) -> Fault:
        moment = self._rng.choice(("before", "after"))
        harm = self._rng.choice(("delay", "drop"))
        seconds = SLOW_SECONDS if harm == "delay" else 0
        return Fault(moment, harm, times=2, seconds=seconds)  # type: ignore[arg-type]
