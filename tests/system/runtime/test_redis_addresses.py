"""Both clients, redis-py and kombu, use the same address: TLS, passwords in files, sockets, Sentinels."""

import asyncio
import os
import re
import string
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from subprocess import PIPE
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
import yaml
from flower.utils.broker import Broker
from redis.exceptions import RedisError

from sluice.admin.doctor.situation_reading import read_redis_memory
from sluice.runtime.celery_options import make_celery
from sluice.runtime.installation import Installation, InstallationRefused
from sluice.runtime.redis_client import build_redis
from sluice.runtime.redis_failures import describe_failure
from sluice.runtime.redis_pool import ClusterRefused, open_client
from sluice.runtime.secret_files import current_url
from sluice.runtime.settings import Settings, SettingsError, read_settings
from sluice.tasks.installation.claim_check import ClaimCheck
from sluice.tasks.installation.claim_reader import ClaimReader
from tests.harness.certificates import Authority
from tests.harness.redis_servers import RedisServers, redis_servers

INSTALLATION = Installation("sluice", UUID(int=7))
PRINTABLE = string.digits + string.ascii_letters + string.punctuation + " äß€"
ENVIRON = {
    "SLUICE_DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:1/none",
    "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
}


def settings_of(url: str, **environ: str) -> Settings:
    return read_settings({**ENVIRON, "SLUICE_REDIS_URL": url, **environ})


def ask_redis_py(settings: Settings) -> None:
    with build_redis(settings.redis_url.get_secret_value(), INSTALLATION.redis_prefix) as client:
        client.llen("queue")


def ask_kombu(settings: Settings) -> None:
    """Uses the connections of kombu for commands and for BRPOP, which a worker's loop reads."""
    app = make_celery(settings, lambda: INSTALLATION)
    with app.connection() as connection:
        channel = connection.transport.create_channel(connection.transport.establish_connection())
        channel._size("queue")
        with channel.conn_or_acquire(channel.subclient) as client:
            client.connection_pool.get_connection().send_command("PING")
        channel.close()


CLIENTS = [ask_redis_py, ask_kombu]
Ask = Callable[[Settings], None]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[RedisServers]:
    with redis_servers(tmp_path / "redis") as made:
        yield made


def failure_of(ask: Ask, settings: Settings) -> str:
    with pytest.raises(RedisError) as caught:
        ask(settings)
    return describe_failure(caught.value, settings.redis_url.get_secret_value())


@pytest.mark.parametrize("ask", CLIENTS)
def test_both_clients_verify_certificate_and_host_name(
    ask: Ask, servers: RedisServers, tmp_path: Path
) -> None:
    own, other = Authority(tmp_path / "own"), Authority(tmp_path / "other")
    server, client = own.issue("server", host="localhost"), own.issue("client", host="client")
    port = servers.start_tls(server.certificate, server.key, own.file)
    ca = f"ssl_ca_certs={own.file}"
    login = f"ssl_certfile={client.certificate}&ssl_keyfile={client.key}"
    good = f"rediss://localhost:{port}/0?{ca}&{login}"
    ask(settings_of(good))
    ask(settings_of(f"rediss://127.0.0.1:{port}?{ca}&{login}&ssl_check_hostname=false"))
    ask(settings_of(f"rediss://127.0.0.1:{port}?{login}&ssl_cert_reqs=none"))
    refused = (
        f"rediss://localhost:{port}?{login}",
        f"rediss://localhost:{port}?ssl_ca_certs={other.file}&{login}",
        f"rediss://127.0.0.1:{port}?{ca}&{login}",
    )
    for url in refused:
        assert "the certificates in SLUICE_REDIS_URL" in failure_of(ask, settings_of(url)), url
    # With TLS 1.3 the server closes the connection after the handshake, so the text of the error varies.
    assert failure_of(ask, settings_of(f"rediss://localhost:{port}?{ca}"))


@pytest.mark.parametrize("ask", CLIENTS)
def test_a_password_with_any_character_is_read_again_at_each_connect(
    ask: Ask, servers: RedisServers, tmp_path: Path
) -> None:
    port = servers.start("--requirepass", "first")
    url, file = f"redis://:of-the-url@127.0.0.1:{port}/0", tmp_path / "password"
    file.write_text("first\n")
    settings = settings_of(url, SLUICE_REDIS_PASSWORD_FILE=str(file))
    ask(settings)
    with open_client(current_url(settings.redis_url.get_secret_value())) as admin:
        admin.config_set("requirepass", PRINTABLE)
    assert "SLUICE_REDIS_PASSWORD" in failure_of(ask, settings)
    file.write_text(PRINTABLE)
    ask(settings)
    ask(settings_of(url, SLUICE_REDIS_PASSWORD=PRINTABLE))
    ask(settings_of(f"redis://:{quote(PRINTABLE, safe='')}@127.0.0.1:{port}"))
    file.unlink()
    with pytest.raises((RedisError, SettingsError), match="cannot read the file"):
        ask(settings)


def test_an_open_pool_uses_a_changed_password_at_its_next_connect(
    servers: RedisServers, tmp_path: Path
) -> None:
    port, file = servers.start("--requirepass", "first"), tmp_path / "password"
    file.write_text("first")
    settings = settings_of(f"redis://127.0.0.1:{port}/0", SLUICE_REDIS_PASSWORD_FILE=str(file))
    app = make_celery(settings, lambda: INSTALLATION)
    url = settings.redis_url.get_secret_value()
    with build_redis(url, INSTALLATION.redis_prefix) as client, app.connection() as connection:
        channel = connection.default_channel
        client.config_set("requirepass", "second")
        file.write_text("second")
        assert client.llen("queue") == channel._size("queue") == 0, "open connections are kept"
        for pool in (client.connection_pool, channel.pool):
            pool.disconnect()
        assert client.llen("queue") == channel._size("queue") == 0


def test_the_compose_file_gives_redis_a_password_with_any_character(
    servers: RedisServers, tmp_path: Path
) -> None:
    file = Path(__file__).parents[3] / "docker-compose.yml"
    [_, _, text] = yaml.safe_load(file.read_text())["services"]["redis"]["command"]
    config = tmp_path / "redis.conf"
    before, started, after = re.split(
        r"exec docker-entrypoint.sh redis-server -(.*)<<", text.replace("$$", "$")
    )
    environment = {**os.environ, "REDIS_PASSWORD": PRINTABLE}
    shown = subprocess.run(["sh", "-c", f"{before}cat <<{after}"], env=environment, check=True, stdout=PIPE)
    config.write_bytes(shown.stdout)
    port = servers.start_with(config, *started.split())
    ask_redis_py(settings_of(f"redis://127.0.0.1:{port}/0", SLUICE_REDIS_PASSWORD=PRINTABLE))


@pytest.mark.parametrize("ask", CLIENTS)
def test_a_unix_socket_is_used(ask: Ask, servers: RedisServers, tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    servers.start("--unixsocket", str(socket), "--requirepass", "p@ss")
    ask(settings_of(f"unix://{socket}?db=3", SLUICE_REDIS_PASSWORD="p@ss"))


@pytest.mark.parametrize("ask", CLIENTS)
def test_the_server_is_found_by_sentinels_with_a_password(
    ask: Ask, servers: RedisServers, tmp_path: Path
) -> None:
    port = servers.start("--requirepass", "of the server")
    lines = f'sentinel monitor main 127.0.0.1 {port} 1\nsentinel auth-pass main "of the server"'
    sentinel = servers.start_sentinel(f'{lines}\nrequirepass "of sentinel"')
    url = f"sentinel://127.0.0.1:1,127.0.0.1:{sentinel}/main/2"
    file = tmp_path / "password"
    file.write_text("wrong")
    passwords = {
        "SLUICE_REDIS_PASSWORD": "of the server",
        "SLUICE_REDIS_SENTINEL_PASSWORD_FILE": str(file),
    }
    settings = settings_of(url, **passwords)
    assert "SLUICE_REDIS_SENTINEL_PASSWORD" in failure_of(ask, settings)
    file.write_text("of sentinel")
    ask(settings)
    unknown = settings_of(url.replace("/main/", "/other/"), **passwords)
    assert "the Sentinels know no server with the name 'other'; correct the name" in failure_of(ask, unknown)


def test_sentinels_and_their_server_may_require_tls(servers: RedisServers, tmp_path: Path) -> None:
    own = Authority(tmp_path / "own")
    made = own.issue("server", host="localhost")
    files = (made.certificate, made.key, own.file)
    port = servers.start_tls(*files, "--tls-auth-clients", "no", "--tls-replication", "yes")
    names = "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes"
    tls = "tls-auth-clients no\ntls-replication yes"
    sentinel = servers.start_sentinel(f"{tls}\n{names}\nsentinel monitor main localhost {port} 1", *files)
    good = f"sentinels://localhost:{sentinel}/main?ssl_ca_certs={own.file}"
    for ask in CLIENTS:
        ask(settings_of(good))
        assert "the certificates in SLUICE_REDIS_URL" in failure_of(ask, settings_of(good.partition("?")[0]))


def test_flower_reads_the_lengths_of_queues_at_each_form_of_address(
    servers: RedisServers, tmp_path: Path
) -> None:
    own = Authority(tmp_path / "own")
    made = own.issue("server", host="localhost")
    tls = servers.start_tls(made.certificate, made.key, own.file, "--tls-auth-clients", "no")
    plain = servers.start("--requirepass", "p@ss", "--unixsocket", str(tmp_path / "r.sock"))
    lines = f"sentinel monitor main 127.0.0.1 {plain} 1\nsentinel auth-pass main p@ss\nrequirepass p&ss"
    sentinel = servers.start_sentinel(lines)
    login = {"SLUICE_REDIS_PASSWORD": "p@ss"}
    sentinel_login = {"SLUICE_REDIS_SENTINEL_PASSWORD": "p&ss"}
    for settings in (
        settings_of(f"rediss://localhost:{tls}/1?ssl_ca_certs={own.file}"),
        settings_of(f"redis://127.0.0.1:{plain}/1", **login),
        settings_of(f"unix://{tmp_path}/r.sock", **login),
        settings_of(f"sentinel://127.0.0.1:{sentinel}/main/2", **login, **sentinel_login),
    ):
        app = make_celery(settings, lambda: INSTALLATION)
        with build_redis(settings.redis_url.get_secret_value(), INSTALLATION.redis_prefix) as client:
            client.lpush("queue", "message")
        with app.connection() as connection:
            broker = Broker(
                connection.as_uri(include_password=True),
                broker_options=app.conf.broker_transport_options,
                broker_use_ssl=app.conf.broker_use_ssl,
            )
        assert asyncio.run(lengths(broker)) == [{"name": "queue", "messages": 1}]


async def lengths(broker: Any) -> Any:
    """Returns what Flower shows. Flower itself does not close its connections to the Sentinels."""
    found = await broker.queues(["queue"])
    manager = getattr(broker.redis.connection_pool, "sentinel_manager", None)
    for client in manager.sentinels if manager else ():
        await client.aclose()
    return found


def test_a_redis_cluster_is_refused_in_one_sentence(servers: RedisServers) -> None:
    settings = settings_of(f"redis://127.0.0.1:{servers.start_cluster()}/0")
    url = settings.redis_url.get_secret_value()
    with (
        closing(ClaimReader(settings, INSTALLATION)) as reader,
        pytest.raises(InstallationRefused) as refused,
    ):
        ClaimCheck(reader, watch_seconds=0).is_done(now=0)  # the check of each starting process
    assert str(refused.value) == (
        f"Redis: cannot use {url.removeprefix('redis://')}: the server runs in cluster mode;"
        " use a Redis without cluster mode, alone or with Sentinel"
    )
    with pytest.raises(ClusterRefused):
        read_redis_memory(url)  # for `sluice doctor`
