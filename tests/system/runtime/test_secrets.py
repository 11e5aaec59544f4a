"""No output contains a secret, and a Redis user with least rights is enough for every process."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from redis import Redis

from examples.shop.generate import generate
from sluice.stack import Stack
from sluice.testing.servers.deployment import Deployment
from tests.harness.providers import Providers
from tests.system.conftest import MakeDeployment
from tests.system.faults.test_full_redis import assert_all_is_done, start_all

LEAST_RIGHTS = ("~sluice-*", "&*", "+@all", "-@dangerous", "-@admin", "+info")
"""docs/redis.md lists these rights. The prefix of all keys begins with SLUICE_NAME."""
CANARIES = ("canary-of-redis-p@ss/word", "canary-of-postgres", "canary-that-is-wrong")
COMMANDS = (
    ("doctor", "--json"),
    ("doctor",),
    ("status", "--json"),
    ("workers",),
    ("dlq", "ls"),
    ("redis", "ls"),
)


@pytest.fixture
def least_user(redis: Stack) -> Iterator[str]:
    """Yields a user of the shared Redis."""
    name = f"least-{os.getpid()}"
    with Redis.from_url(redis.redis_url()) as admin:
        admin.execute_command("ACL", "SETUSER", name, "reset", "on", f">{CANARIES[0]}", *LEAST_RIGHTS)
        yield name
        denied = [one for one in admin.acl_log() if one["username"] == name and one["reason"] != "auth"]
        admin.acl_deluser(name)
    assert denied == []


def run(environ: dict[str, str], words: Sequence[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sluice.cli.main", *words],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout + done.stderr


def command_lines(deployment: Deployment) -> str:
    """Returns the arguments of all processes of this machine, as `ps` shows them."""
    assert deployment.run.processes
    lines = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            lines.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it has ended
    return "\n".join(lines)


@pytest.mark.matrix
@pytest.mark.unforked
def test_least_rights_are_enough_and_no_output_contains_a_secret(
    make_deployment: MakeDeployment, providers: Providers, least_user: str, redis_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "redis-password"
    file.write_text(CANARIES[0])
    secrets = {
        "SLUICE_REDIS_URL": redis_url.replace("redis://", f"redis://{least_user}@"),
        "SLUICE_REDIS_PASSWORD_FILE": str(file),
        "SLUICE_DATABASE_PASSWORD": CANARIES[1],
    }
    deployment = make_deployment(**providers.environ(), **secrets)
    processes = [deployment.run.start_bridge(), *start_all(deployment)]
    processes.append(deployment.run.start_supervised_worker(name="supervised"))
    deployment.produce(generate("payments", count=100, seed=1))
    deployment.wait_settled()
    environ = deployment.run.environ()
    outputs = {" ".join(words): run(environ, words) for words in COMMANDS}
    outputs["ps"] = command_lines(deployment)
    wrong = tmp_path / "wrong-password"
    wrong.write_text(CANARIES[2])
    outputs["wrong file"] = run({**environ, "SLUICE_REDIS_PASSWORD_FILE": str(wrong)}, ["status"])
    outputs["no file"] = run({**environ, "SLUICE_REDIS_PASSWORD_FILE": f"{wrong}.none"}, ["status"])
    for name in ("SLUICE_REDIS_URL", "SLUICE_DATABASE_URL"):
        mistaken = {**environ, "SLUICE_REDIS_PASSWORD_FILE": "", name: CANARIES[2]}
        outputs[f"{name} is a password"] = run(mistaken, ["doctor"])
    assert_all_is_done(deployment)
    assert [process.exit_code for process in processes] == [None] * len(processes)
    outputs |= {process.name: process.log.read_text() for process in processes}
    found = [(name, secret) for name, text in outputs.items() for secret in CANARIES if secret in text]
    assert found == []
    assert "cannot read the file" in outputs["no file"]
    assert "SLUICE_REDIS_PASSWORD" in outputs["wrong file"]
    refused = [name for name, text in outputs.items() if "no permissions" in text or "NOPERM" in text]
    assert refused == []
