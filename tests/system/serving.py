"""Starts the other processes of a deployment, and waits until `doctor` would report them as alive."""

from sluice.db.admin.server_facts import read_beat_silence
from sluice.db.delivery.living_processes import read_living
from sluice.testing.servers.deployment import Deployment
from sluice.testing.servers.local_run import RunningProcess


def start_beside(deployment: Deployment) -> dict[str, RunningProcess]:
    """Starts relay, effects, rebuild and beat, and waits until they are alive. Returns them by name."""
    run = deployment.run
    started = (run.start_relay(), run.start_effects(), run.start_rebuilds(), run.start_beat())
    wait_alive(deployment, *started)
    return {process.name: process for process in started}


def wait_alive(deployment: Deployment, *processes: RunningProcess) -> None:
    """Waits until the processes have a heartbeat, and until a beat has scheduled a task."""
    pids = {process.pid for process in processes}

    def alive() -> bool:
        known = {one.process_id for one in read_living(deployment.session)}
        return pids <= known and read_beat_silence(deployment.session) is not None

    deployment.wait_until(alive, timeout_seconds=30, what="the processes are alive")
