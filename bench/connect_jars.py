"""Downloads Kafka Connect and Debezium's JDBC sink with Maven, into the cache of the local servers."""

import shutil
import subprocess
from pathlib import Path

from sluice.stack.atomic_folders import made_whole
from sluice.stack.kafka_jars import KAFKA_VERSION, MAVEN_GOAL
from sluice.stack.patience import patient
from sluice.stack.service import ComponentMissing, Report, StackError

DEBEZIUM_VERSION = "3.6.0.Final"  # since 3.5 it can insert with UNNEST
UNPACK_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack"
DOWNLOAD_TIMEOUT_SECONDS = 600
ERROR_CHARACTERS = 500

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>sluice</groupId>
  <artifactId>bench-connect</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>connect-runtime</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>connect-json</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""


def connect_folder(cache: Path) -> Path:
    """Returns the folder of the jars: Connect in `connect`, the sink below `plugins`."""
    return cache / f"connect-{KAFKA_VERSION}-debezium-{DEBEZIUM_VERSION}"


def fetch_connect(cache: Path, report: Report) -> Path:
    """Returns the folder of the jars. If it does not exist, downloads the jars first.

    Raises ComponentMissing if Maven is not installed, and StackError if Maven fails. Concurrent calls are
    harmless.
    """
    target = connect_folder(cache)
    if target.is_dir():
        return target
    maven = shutil.which("mvn")
    if maven is None:
        raise ComponentMissing("Maven downloads Kafka Connect and Debezium: install it (apt install maven)")
    report(f"fetching Kafka Connect {KAFKA_VERSION} and Debezium {DEBEZIUM_VERSION} by Maven (100 MB, once)")
    with made_whole(target) as part:
        pom = part / "pom.xml"
        pom.write_text(POM)
        command = [maven, "-q", "-B", "-f", str(pom)]
        runtime = f"-DoutputDirectory={part / 'connect'}"
        _run([*command, MAVEN_GOAL, "-DincludeScope=runtime", runtime], cwd=part)
        artifact = f"-Dartifact=io.debezium:debezium-connector-jdbc:{DEBEZIUM_VERSION}:tar.gz:plugin"
        _run([*command, UNPACK_GOAL, artifact, f"-DoutputDirectory={part / 'plugins'}"], cwd=part)
        part.chmod(0o755)
    return target


def _run(command: list[str], *, cwd: Path) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=patient(DOWNLOAD_TIMEOUT_SECONDS),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StackError("Maven did not fetch Kafka Connect and Debezium in time") from None
    if done.returncode:
        told = (done.stdout + done.stderr).strip()[-ERROR_CHARACTERS:]
        raise StackError(f"Maven could not fetch Kafka Connect and Debezium: {told}")
