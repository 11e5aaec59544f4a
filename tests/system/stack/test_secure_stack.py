"""A secure stack refuses clients without TLS and a login. Its environment is enough for all commands."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg2
import pytest
import redis as redis_client
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy.engine import make_url

from sluice.kafka_io.login_check import find_refusal
from sluice.runtime.kafka_access import PLAINTEXT, KafkaAccess
from sluice.stack import Stack
from sluice.stack.kafka_jars import CACHE_VARIABLE
from sluice.stack.patience import patient
from sluice.stack.ports import LOOPBACK
from tests.harness import stacks

HANDLERS = "examples.shop.handlers"
EVENT = ("--key", "ann", "--type", "user.changed", "--data", '{"name": "Ann"}')
COMMANDS = (
    ("init",),
    ("status",),
    ("verify",),
    ("send", "users", *EVENT),
    ("stack", "psql", "-c", "SELECT 1"),
)


def clean_environment() -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SLUICE_") or name == CACHE_VARIABLE
    }
    return {**kept, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}


def sluice(words: Sequence[str], folder: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sluice.cli.main", *words],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(180),
    )


def read_exports(text: str) -> dict[str, str]:
    """Returns the variables that a shell would set."""
    words = [shlex.split(line)[1] for line in text.splitlines()]
    return dict(word.split("=", 1) for word in words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yields a folder in which `sluice stack up --secure` has run."""
    made = tmp_path_factory.mktemp("secure")
    # In this folder, the next test run ends servers that a killed run left.
    root = stacks.FOLDER / f"{os.getpid()}-secure-stack"
    root.mkdir(parents=True)
    (made / ".sluice").mkdir()
    (made / ".sluice/stack").symlink_to(root)
    try:
        done = sluice(["stack", "up", "--secure"], made, clean_environment())
        assert done.returncode == 0, done.stderr
        yield made
    finally:
        Stack(root).down(wipe=True)


def test_the_printed_environment_is_enough_for_every_command(folder: Path) -> None:
    printed = sluice(["stack", "env"], folder, clean_environment())
    environ = {**clean_environment(), **read_exports(printed.stdout), "SLUICE_HANDLERS": HANDLERS}
    for words in COMMANDS:
        done = sluice(words, folder, environ)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    done = sluice(["doctor", "--json"], folder, environ)
    assert done.returncode in (0, 1), done.stderr
    found = json.loads(done.stdout)
    assert "right" not in json.dumps(found), found


def postgres_refusal(stack: Stack, **options: str) -> str:
    """Returns why Postgres refuses a login with other options; "" if it accepts the login."""
    url = make_url(stack.database_url())
    given = {**url.translate_connect_args(username="user", database="dbname"), **url.query, **options}
    try:
        psycopg2.connect(**given).close()
    except psycopg2.OperationalError as error:
        return str(error)
    return ""


def test_postgres_refuses_clients_without_tls_a_password_or_the_authority(
    folder: Path, tmp_path: Path
) -> None:
    stack = Stack(folder / ".sluice/stack")
    assert postgres_refusal(stack) == ""
    assert "no encryption" in postgres_refusal(stack, sslmode="disable")
    assert "password authentication failed" in postgres_refusal(stack, password="wrong")
    assert "no password supplied" in postgres_refusal(stack, password="")
    other = tmp_path / "other.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-nodes",
            "-keyout",
            tmp_path / "key",
            "-out",
            other,
            "-subj",
            "/CN=other",
        ],
        check=True,
        capture_output=True,
    )
    assert "certificate verify failed" in postgres_refusal(stack, sslrootcert=str(other))


def redis_refusal(url: str, *words: str) -> str:
    """Returns why Redis refuses a command; "" if it carries it out."""
    with redis_client.Redis.from_url(url, retry=Retry(NoBackoff(), 0)) as client:
        try:
            client.execute_command(*words)
        except redis_client.RedisError as error:
            return str(error)
    return ""


def test_redis_refuses_clients_without_tls_a_login_or_the_right(folder: Path) -> None:
    stack = Stack(folder / ".sluice/stack")
    url = stack.redis_url()
    assert redis_refusal(url, "SET", "sluice-0:key", "1") == ""
    assert "no permissions" in redis_refusal(url, "SET", "other-0:key", "1").lower()
    for command in (("FLUSHALL",), ("CONFIG", "GET", "*"), ("ACL", "LIST"), ("KEYS", "*")):
        assert "no permissions" in redis_refusal(url, *command).lower(), command
    assert "authenticate" in redis_refusal(re.sub(r"//.*@", "//", url), "PING")
    assert "invalid username-password" in redis_refusal(re.sub(r":[^:/]*@", ":wrong@", url), "PING")
    assert redis_refusal(url.replace("rediss:", "redis:").partition("?")[0], "PING") != ""
    assert "certificate verify failed" in redis_refusal(url.partition("?")[0], "PING")
    assert redis_refusal(stack.redis_admin_url(), "CONFIG", "GET", "port") == ""


def test_kafka_refuses_a_client_without_tls(folder: Path) -> None:
    servers = Stack(folder / ".sluice/stack").kafka_bootstrap_servers()
    assert find_refusal(KafkaAccess(servers, PLAINTEXT)) is not None


def test_the_keys_of_the_redis_user_follow_the_name_of_the_installation(folder: Path) -> None:
    root = folder / ".sluice/stack"
    stack = Stack(root, name="shop")
    stack.start("redis")
    assert redis_refusal(stack.redis_url(), "SET", "shop-0:key", "1") == ""
    assert "no permissions" in redis_refusal(stack.redis_url(), "GET", "sluice-0:key").lower()
    stack.stop("redis")
    stack = Stack(root)
    stack.start("redis")
    assert redis_refusal(stack.redis_url(), "GET", "sluice-0:key") == ""


def test_no_process_of_the_stack_shows_a_password(folder: Path) -> None:
    passwords = [file.read_text() for file in (folder / ".sluice/stack/tls").glob("*.password")]
    assert len(passwords) == 4
    for service in Stack(folder / ".sluice/stack").status():
        shown = Path(f"/proc/{service.pid}/cmdline").read_text()
        assert LOOPBACK in shown or str(service.data_dir) in shown or "server.properties" in shown
        assert not [one for one in passwords if one in shown]
