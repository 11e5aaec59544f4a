"""The Kafka brokers of one test: several, or one with an authorizer. Each broker is a controller, too."""

import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sluice.runtime.kafka_access import KafkaAccess
from sluice.stack.kafka_broker import LOG_CONFIG, new_cluster_id, server_properties
from sluice.stack.kafka_jars import cache_folder, fetch_jars, find_java
from sluice.stack.kafka_metadata import lists_itself
from sluice.stack.patience import patient
from sluice.stack.ports import LOOPBACK, choose_ports
from tests.waiting import wait_until

HEAP = "-Xmx400m"
STOP_SECONDS = 60.0
FORMAT_SECONDS = 120.0
START_SECONDS = 120.0
REPLICATED = {
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    # With the defaults, a restarted broker is leader again only after 5 minutes.
    "auto.leader.rebalance.enable": "true",
    "leader.imbalance.check.interval.seconds": "5",
}
WITH_AUTHORIZER = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    # All clients have the user ANONYMOUS. A test denies a right to this user by an ACL.
    "allow.everyone.if.no.acl.found": "true",
    "super.users": "User:nobody",
}


class KafkaCluster:
    """A cluster of nodes (brokers) with the numbers 1, 2, …. A restarted node keeps its ports and data."""

    port_kinds: tuple[str, ...] = ("broker", "controller")

    def __init__(self, folder: Path, nodes: int, settings: Mapping[str, str]) -> None:
        self._folder = folder
        self._java, self._jars = find_java(), fetch_jars(cache_folder({}), lambda _: None)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        names = [f"{kind}{node}" for node in range(1, nodes + 1) for kind in self.port_kinds]
        self._ports = choose_ports(tuple(names), {}, set())
        self.nodes = range(1, nodes + 1)
        cluster_id = new_cluster_id()
        for node in self.nodes:
            home = folder / str(node)
            home.mkdir(parents=True)
            (home / "log4j2.properties").write_text(LOG_CONFIG)
            (home / "server.properties").write_text(self._properties(node, home, settings))
            tool = [self._java, "-cp", f"{self._jars}/*", "kafka.tools.StorageTool", "format"]
            subprocess.run(
                [*tool, "-t", cluster_id, "-c", str(home / "server.properties"), *self._format_options()],
                check=True,
                capture_output=True,
                timeout=patient(FORMAT_SECONDS),
            )

    def kafka_bootstrap_servers(self) -> str:
        """Returns the addresses of all brokers, in the same form as `Stack.kafka_bootstrap_servers`."""
        return ",".join(f"{LOOPBACK}:{self._ports[f'broker{node}']}" for node in self.nodes)

    def kafka_access(self) -> KafkaAccess:
        """Returns how clients reach the brokers."""
        return KafkaAccess(self.kafka_bootstrap_servers())

    def start(self, *nodes: int) -> None:
        """Starts these brokers (default: all) and waits until they answer."""
        chosen = nodes or tuple(self.nodes)
        for node in chosen:
            home = self._folder / str(node)
            with (home / "server.log").open("ab") as log:
                self._processes[node] = subprocess.Popen(
                    [
                        *(self._java, HEAP, f"-Dlog4j2.configurationFile={home / 'log4j2.properties'}"),
                        *("-cp", f"{self._jars}/*", "kafka.Kafka", str(home / "server.properties")),
                    ],
                    stdout=log,
                    stderr=log,
                )
        for node in chosen:
            wait_until(
                lambda node=node: self._answers(node),  # type: ignore[misc]
                timeout_seconds=START_SECONDS,
                what=f"broker {node} answers",
                poll_seconds=0.3,
            )

    def stop(self, node: int, how: signal.Signals = signal.SIGTERM) -> None:
        """Stops this broker and waits for its end. Idempotent."""
        process = self._processes.pop(node, None)
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(patient(STOP_SECONDS))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """Kills all brokers."""
        for node in list(self._processes):
            self.stop(node, signal.SIGKILL)

    def _properties(self, node: int, home: Path, settings: Mapping[str, str]) -> str:
        voters = ",".join(f"{one}@{LOOPBACK}:{self._ports[f'controller{one}']}" for one in self.nodes)
        own = {
            "node.id": str(node),
            "controller.quorum.voters": voters,
            "group.initial.rebalance.delay.ms": "0",
            **settings,
        }
        base = self._base(node, home / "data")
        kept = [line for line in base.splitlines() if not line.startswith("controller.quorum.bootstrap")]
        return "\n".join([*kept, *(f"{name}={value}" for name, value in own.items())]) + "\n"

    def _base(self, node: int, data: Path) -> str:
        ports = self._ports_of(node)
        return server_properties(broker_port=ports["broker"], controller_port=ports["controller"], data=data)

    def _ports_of(self, node: int) -> dict[str, int]:
        return {kind: self._ports[f"{kind}{node}"] for kind in self.port_kinds}

    def _format_options(self) -> tuple[str, ...]:
        return ()

    def _answers(self, node: int) -> bool:
        return lists_itself(LOOPBACK, self._ports_of(node)["broker"], timeout_seconds=2)


@contextmanager
def kafka_cluster(folder: Path, nodes: int, settings: Mapping[str, str]) -> Iterator[KafkaCluster]:
    """Runs a cluster. Ends all its processes afterwards."""
    cluster = KafkaCluster(folder, nodes, settings)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()
