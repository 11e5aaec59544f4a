"""A Kafka broker that is its own controller (KRaft combined mode)."""

import base64
import os
import subprocess
import uuid
from pathlib import Path
from signal import Signals

from sluice.stack.atomic_folders import made_whole, write_whole
from sluice.stack.kafka_jars import fetch_jars, find_java
from sluice.stack.kafka_metadata import lists_itself
from sluice.stack.patience import patient
from sluice.stack.ports import LOOPBACK
from sluice.stack.service import Launch, Place, Report, ServiceName, StackError, StopSignal

NODE_ID = 1
# Few, because the first start of a consumer group creates a folder per partition of the offsets topic. By
# default there are 50 partitions.
OFFSETS_PARTITIONS = 4
# Under the load of the tests and the bench, the broker used 330 MB of memory.
HEAP = "-Xmx768m"
ANSWER_TIMEOUT_SECONDS = 2
FORMAT_TIMEOUT_SECONDS = 60

LOG_CONFIG = """status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %c: %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
"""


def server_properties(*, broker_port: int, controller_port: int, data: Path) -> str:
    """Returns the broker's configuration: one node, no replication, no automatic creation of topics."""
    settings = {
        "process.roles": "broker,controller",
        "node.id": NODE_ID,
        "controller.quorum.bootstrap.servers": f"{LOOPBACK}:{controller_port}",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{broker_port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{broker_port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": data,
        "auto.create.topics.enable": "false",
        "offsets.topic.num.partitions": OFFSETS_PARTITIONS,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": OFFSETS_PARTITIONS,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # This delay makes a new group wait for more members, which is not needed on one machine.
        "group.initial.rebalance.delay.ms": 0,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


class KafkaBroker:
    """One broker. `cache` is the folder of its jars."""

    name: ServiceName = "kafka"
    port_names: tuple[str, ...] = ("broker", "controller")
    ready_timeout_seconds = 90.0
    silence_timeout_seconds = 20.0

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def choose_data(self, home: Path) -> Path:
        return home / "data"

    def prepare(self, place: Place, report: Report) -> None:
        java = find_java()
        jars = fetch_jars(self._cache, report)
        write_whole(place.home / "log4j2.properties", LOG_CONFIG)
        write_whole(place.home / "server.properties", self._properties(place, place.data))
        if not place.data.is_dir():
            report("formatting Kafka's storage")
            with made_whole(place.data) as part:
                self._format(place, part, java, jars)

    def _format(self, place: Place, part: Path, java: str, jars: Path) -> None:
        config = place.home / "format.properties"
        config.write_text(self._properties(place, part))
        tool = [java, "-cp", f"{jars}/*", "kafka.tools.StorageTool", "format", "--standalone"]
        done = subprocess.run(
            [*tool, "-t", new_cluster_id(), "-c", str(config), *self._format_options(place)],
            capture_output=True,
            text=True,
            timeout=patient(FORMAT_TIMEOUT_SECONDS),
            check=False,
        )
        config.unlink()
        if done.returncode:
            raise StackError(f"Kafka's storage could not be formatted:\n{done.stdout}{done.stderr}")

    def _format_options(self, _: Place) -> tuple[str, ...]:
        return ()

    def _properties(self, place: Place, data: Path) -> str:
        return server_properties(
            broker_port=place.ports["broker"], controller_port=place.ports["controller"], data=data
        )

    def launch(self, place: Place) -> Launch:
        jars = fetch_jars(self._cache, lambda _: None)
        log_config = f"-Dlog4j2.configurationFile={place.home / 'log4j2.properties'}"
        broker = ("kafka.Kafka", str(place.home / "server.properties"))
        return Launch((find_java(), HEAP, log_config, "-cp", f"{jars}/*", *broker), os.environ)

    def answers(self, place: Place) -> bool:
        return lists_itself(LOOPBACK, place.ports["broker"], timeout_seconds=ANSWER_TIMEOUT_SECONDS)

    def stop_signal(self, how: StopSignal) -> Signals:
        return Signals.SIGTERM if how == "term" else Signals.SIGKILL


def new_cluster_id() -> str:
    """Returns a random id in Kafka's form: 16 bytes, base64url, no padding, no leading dash."""
    while True:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        if not cluster_id.startswith("-"):
            return cluster_id
