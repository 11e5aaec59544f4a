"""Sluice applies an event after each kind of installation, beside a user's modules with the same names.

The tests use the dependencies of this environment, because they check only the installation of Sluice.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import psycopg2
import pytest
from sqlalchemy.engine import make_url

from sluice.runtime.service_urls import StackUrls
from sluice.stack import Stack
from tests.waiting import wait_until

ROOT = Path(__file__).parents[3]
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))

# Folders of Sluice have these names, and any Celery project may use the same names.
USERS_MODULES = ("tasks.py", "bridge.py", "db/__init__.py", "worker/__init__.py")
HANDLERS = """
from collections.abc import Iterator

import bridge, db, tasks, worker
from sqlalchemy import BigInteger, Column, MetaData, Text

from sluice import Effect, Entity, Event, JsonObject, Topic, Upsert, entity_table, handles

assert all(module.OF == "the user" for module in (bridge, db, tasks, worker))
topics = (Topic("accounts-{suffix}", entity=Entity("account", shards=1)),)
accounts = entity_table(
    "accounts",
    MetaData(),
    Column("account_id", Text, primary_key=True),
    Column("balance_cents", BigInteger, nullable=False),
)


@handles("balance.set")
def set_balance(event: Event[JsonObject]) -> Iterator[Effect]:
    yield Upsert(accounts, event.key, {{"balance_cents": event.data["balance_cents"]}})
"""


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a wheel and a source distribution, as `make wheel` builds them."""
    source, made = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    # Builds in a copy of the code, because a build leaves files beside the code, and other tests may build,
    # too.
    for name in ("LICENSE", "NOTICE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    for name in ("bridge", "db", "sluice", "tasks", "worker"):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    return made


def make_environment(folder: Path, distribution: Path) -> Path:
    """Makes an environment that contains only this distribution of Sluice. Returns its folder `bin`."""
    # The environment has no pip and no setuptools. It contains only Sluice, which is installed below.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = str(folder / "bin/python")
    (site,) = folder.glob("lib/python*/site-packages")
    # With this file, Python also finds the dependencies and the build backend, after the environment's own
    # packages.
    (site / "dependencies.pth").write_text(f"{SITE_PACKAGES}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "install", *options, str(distribution)], check=True)
    celery = folder / "bin/celery"
    celery.write_text(f"#!{python}\nimport sys\nfrom celery.__main__ import main\nsys.exit(main())\n")
    celery.chmod(0o755)
    found = [python, "-c", "import sluice; print(sluice.__file__)"]
    imported = subprocess.run(found, check=True, capture_output=True, text=True, cwd=folder).stdout
    assert Path(imported.strip()).is_relative_to(site), (
        "Sluice was imported from the clone, not from the new environment"
    )
    added = {path.name for path in site.iterdir() if path.suffix not in (".dist-info", ".pth")}
    assert added == {"sluice"}
    return folder / "bin"


# All other tests run in the clone, so this test uses the layout `clone` only in the matrix.
@pytest.mark.parametrize(
    "layout",
    ["wheel", *(pytest.param(layout, marks=pytest.mark.matrix) for layout in ("clone", "image"))],
)
def test_an_event_is_applied_beside_modules_of_the_same_names(
    layout: str, distributions: Path, kafka: Stack, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    programs = Path(sys.executable).parent
    if layout != "clone":
        (wheel,) = distributions.glob("*.whl")
        programs = make_environment(tmp_path / "environment", wheel)
    project = tmp_path / "project"
    for name in USERS_MODULES:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text('OF = "the user"\n')
    if layout == "image":
        # The working folder of the image contains the examples beside the user's modules.
        shutil.copytree(ROOT / "examples", project / "examples")
    suffix = f"{layout}-{os.getpid()}"
    (project / "accounting.py").write_text(HANDLERS.format(suffix=suffix))
    urls = StackUrls(database_url, redis_url, kafka.kafka_bootstrap_servers())
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    environment.pop("PYTHONPATH", None)
    environment |= urls.environ() | {
        "PATH": f"{programs}{os.pathsep}{environment['PATH']}",
        "SLUICE_HANDLERS": "accounting",
        "SLUICE_HEALTH_FILE": str(tmp_path / "alive"),
    }
    event = {"type": "balance.set", "event_id": "e-1", "version": 1, "data": {"balance_cents": 150_000}}
    line = json.dumps({"key": "acc-42", "value": event, "topic": f"accounts-{suffix}"})

    def run(*words: str, given: str = "") -> None:
        done = subprocess.run(
            words, env=environment, cwd=project, input=given, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run("sluice", "init", "--partitions", "1")
    run("sluice", "send", "-", given=line)
    run("sluice", "status")
    commands = (
        [str(programs / "python"), "-m", "sluice.bridge"],
        [str(programs / "celery"), "-A", "sluice.runtime.app", "worker", "-P", "solo"],
    )
    log = tmp_path / "processes.log"
    with log.open("w") as output:
        started = [
            subprocess.Popen(words, env=environment, cwd=project, stdout=output, stderr=output)
            for words in commands
        ]
    try:
        wait_until(
            lambda: rows(database_url) == [("acc-42", 150_000)], timeout_seconds=60, what="the row exists"
        )
    finally:
        for process in started:
            process.terminate()
        codes = [process.wait() for process in started]
        print(log.read_text())  # pytest shows this output if the test fails.
    assert codes == [0, 0]


@pytest.mark.matrix
def test_the_source_distribution_can_be_installed(distributions: Path, tmp_path: Path) -> None:
    (source,) = distributions.glob("*.tar.gz")
    programs = make_environment(tmp_path / "environment", source)
    said = subprocess.run([programs / "sluice", "--help"], check=True, capture_output=True, text=True)
    assert "reshard" in said.stdout
    # pytest finds the fixtures of Sluice without configuration.
    listing = [
        str(programs / "python"),
        "-m",
        "pytest",
        "--fixtures",
        "-p",
        "no:cacheprovider",
        str(tmp_path),
    ]
    listed = subprocess.run(listing, check=False, capture_output=True, text=True, cwd=tmp_path).stdout
    assert {"sluice_world", "sluice_stack"} <= set(re.findall(r"^sluice_\w+", listed, re.MULTILINE))


def test_the_wheel_contains_only_the_package(distributions: Path) -> None:
    (wheel,) = distributions.glob("sluice_kafka-*.whl")
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", wheel], check=True, capture_output=True, text=True
    )
    names = [line.split()[0] for line in listed.stdout.splitlines()[1:]]
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"sluice", "sluice_kafka"}
    assert "sluice/py.typed" in names
    assert "sluice/db/migrations/script.py.mako" in names
    own = [name for name in names if not name.startswith("sluice/project/template/")]
    assert not [name for name in own if "examples" in name or "tests" in name]


def rows(database_url: str) -> list[tuple[str, int]]:
    """Returns the rows that the handlers have written."""
    url = make_url(database_url)
    connection = psycopg2.connect(host=url.host, port=url.port, user=url.username, dbname=url.database)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT account_id, balance_cents FROM accounts")
            return cursor.fetchall()
    finally:
        connection.close()
