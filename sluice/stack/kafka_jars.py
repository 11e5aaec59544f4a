"""Downloads the jars of the Kafka broker with Maven, into a cache that all stacks share."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from sluice.stack.atomic_folders import made_whole
from sluice.stack.service import ComponentMissing, Report, StackError

KAFKA_VERSION = "4.1.1"
# The version of log4j-slf4j-impl, which writes Kafka's log to log4j. It is not a dependency of the broker.
LOG4J_VERSION = "2.24.3"
MAVEN_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
CACHE_VARIABLE = "SLUICE_STACK_CACHE"

# Long enough to download 45 MB over a slow connection.
DOWNLOAD_TIMEOUT_SECONDS = 600
# Kafka 4 brokers are compiled for this version of Java.
OLDEST_JAVA = 17

INSTEAD = "or run the services with docker-compose.yml"

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>sluice</groupId>
  <artifactId>local-kafka-broker</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Returns the folder of downloads: SLUICE_STACK_CACHE if it is set, else the user's cache folder."""
    if chosen := environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser().absolute()
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sluice"


def find_java() -> str:
    """Returns the path of a Java that can run the broker. Raises ComponentMissing with what to install."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else None
    java = java or shutil.which("java")
    if java is None:
        raise ComponentMissing(
            f"Kafka needs Java: install a JDK ≥ {OLDEST_JAVA} and Maven "
            f"(Debian: apt install default-jdk-headless maven), {INSTEAD}"
        )
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(\d+)', told)
    if version is None or int(version[1]) < OLDEST_JAVA:
        raise ComponentMissing(
            f"{java} is not Java {OLDEST_JAVA} or later: install one (or set JAVA_HOME), {INSTEAD}"
        )
    return java


def fetch_jars(cache: Path, report: Report) -> Path:
    """Returns the folder with the broker's jars. If the folder does not exist, downloads the jars first.

    Raises ComponentMissing if Maven is not installed, and StackError if Maven fails. Concurrent calls are
    harmless.
    """
    target = cache / f"kafka-{KAFKA_VERSION}"
    if target.is_dir():
        return target
    maven = shutil.which("mvn")
    if maven is None:
        raise ComponentMissing(
            f"Maven downloads Kafka's jars: install it (apt install maven, or brew), {INSTEAD}"
        )
    report(f"fetching Kafka {KAFKA_VERSION} by Maven (45 MB, once)")
    with made_whole(target) as part:
        pom = part / "pom.xml"
        pom.write_text(POM)
        _run_maven([maven, "-q", "-B", "-f", str(pom), MAVEN_GOAL, f"-DoutputDirectory={part}"], cwd=part)
        # mkdtemp makes a folder that only its owner may read, but another user may use the cache later.
        part.chmod(0o755)
    return target


def _run_maven(command: list[str], *, cwd: Path) -> None:
    try:
        done = subprocess.run(
            [*command, "-DincludeScope=runtime"],
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StackError(
            f"Maven did not fetch Kafka within {DOWNLOAD_TIMEOUT_SECONDS} s: is Maven Central reachable?"
        ) from None
    if done.returncode:
        told = (done.stdout + done.stderr).strip()[-2000:]
        raise StackError(f"Maven could not fetch Kafka; is Maven Central reachable? Its output:\n{told}")
