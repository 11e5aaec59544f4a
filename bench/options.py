"""The extent of the measurements: of the whole bench, and of the fast one. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """The extent of the measurements. The defaults are those of the whole bench."""

    events: int = 300_000
    """Events per drain."""
    rounds: int = 3
    seconds: int = 20
    """The duration at each rate."""
    waiting: int = 1_000_000
    """Waiting events while memory is measured."""
    identities: tuple[int, ...] = (3_000_000, 20_000_000)
    """Identities that are stored before a drain."""
    snapshot_seconds: int = 600
    """The time for which an old snapshot is held."""
    idle_seconds: int = 60
    """The time without events for which CPU is measured."""
    idle_with_many: bool = True
    """Idle processes are also measured with kafka-python, many partitions and many queues."""
    warm_up_seconds: int = 25
    """The time for which the servers are warmed up: a cold JVM uses twice the CPU for the same requests."""
    quiet_seconds: int = 180
    """The longest wait for a load average below 1 before a latency is measured."""
    seed: int = 1
    only: tuple[str, ...] = ()
    """The name of a contender must contain one of these texts; empty: all contenders."""


FAST = Options(
    events=20_000,
    rounds=1,
    seconds=3,
    waiting=100_000,
    identities=(200_000,),
    snapshot_seconds=15,
    idle_seconds=5,
    idle_with_many=False,
    warm_up_seconds=5,
    quiet_seconds=0,
)
# The parts that answer most questions, within five minutes on an idle machine.
FAST_PARTS = ("drain", "mixed", "latency", "idle", "snapshot")
