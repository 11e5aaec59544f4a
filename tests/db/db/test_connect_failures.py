"""Connections that a real Postgres refuses, in English and in another language, with and without TLS."""

import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import psycopg2
import pytest
from sqlalchemy.engine import URL, make_url

from sluice.db.connect_failures import ConnectCause, ConnectFailed
from sluice.db.connection import Session, Statement
from sluice.stack.postgres_files import give_to, server_user
from tests.harness import stacks
from tests.waiting import wait_until

PASSWORD = "not to be shown"
RULES = """\
host all rejected 127.0.0.1/32 reject
host all alice,expired,locked,full,rotating 127.0.0.1/32 scram-sha-256
hostssl all tls 127.0.0.1/32 trust
hostssl all certified 127.0.0.1/32 cert
host all {superuser},plain 127.0.0.1/32 trust
"""
ROLES = """
CREATE ROLE alice LOGIN PASSWORD 'right'; CREATE ROLE rejected LOGIN; CREATE ROLE tls LOGIN;
CREATE ROLE expired LOGIN PASSWORD 'right' VALID UNTIL '2000-01-01'; CREATE ROLE certified LOGIN;
CREATE ROLE locked NOLOGIN PASSWORD 'right'; CREATE ROLE plain LOGIN; CREATE ROLE unlisted LOGIN;
CREATE ROLE full LOGIN PASSWORD 'right' CONNECTION LIMIT 0
"""


class Server(NamedTuple):
    """A Postgres server that only this module uses, and the certificate of the server."""

    url: URL
    certificate: Path


def _admin(url: URL) -> psycopg2.extensions.connection:
    made: psycopg2.extensions.connection = psycopg2.connect(
        host=url.host, port=url.port, user=url.username, dbname="postgres"
    )
    made.autocommit = True
    return made


def _run(url: URL, *statements: str) -> list[tuple[object, ...]]:
    with closing(_admin(url)) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []


def _reload(url: URL, *statements: str) -> None:
    """Runs statements such as ALTER SYSTEM and waits until the server has reloaded its configuration."""
    [(before,)] = _run(url, "SELECT pg_conf_load_time()")
    _run(url, *statements, "SELECT pg_reload_conf()")
    wait_until(
        lambda: _run(url, "SELECT pg_conf_load_time()") != [(before,)],
        timeout_seconds=30,
        what="Postgres has reloaded its configuration",
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Yields a server with TLS and one access rule per role. Its messages are in German if possible."""
    with pytest.MonkeyPatch.context() as patch, stacks.own_stack() as stack:
        patch.setenv("LANGUAGE", "de")
        stack.start("postgres")
        url = make_url(stack.database_url())
        [(hba,)] = _run(url, "SHOW hba_file")
        folder = Path(str(hba)).parent
        certificate = _make_certificate(folder)
        give_to(server_user(), folder)
        Path(str(hba)).write_text(RULES.format(superuser=url.username))
        _run(
            url,
            *ROLES.split(";"),
            "CREATE DATABASE private",
            "REVOKE CONNECT ON DATABASE private FROM PUBLIC",
        )
        _run(url, "CREATE DATABASE closed ALLOW_CONNECTIONS false")
        with suppress(psycopg2.Error):  # The Postgres was built without TLS.
            _reload(url, "ALTER SYSTEM SET ssl = on", "ALTER SYSTEM SET ssl_ca_file = 'ca.crt'")
        yield Server(url, certificate)


def _make_certificate(folder: Path) -> Path:
    """Makes a certificate authority, and a certificate for the host `elsewhere`. Returns the authority's."""
    key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    _openssl(folder, f"req -x509 {key} -days 2 -subj /CN={secrets.token_hex(8)} -keyout ca.key -out ca.crt")
    _openssl(folder, f"req {key} -subj /CN=elsewhere -keyout server.key -out server.csr")
    _openssl(
        folder, "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -out server.crt"
    )
    return folder / "ca.crt"


def _openssl(folder: Path, words: str) -> None:
    subprocess.run(["openssl", *words.split()], check=True, capture_output=True, cwd=folder)


CASES = [
    ("alice", PASSWORD, "", {}, "password authentication failed"),
    ("alice", None, "", {}, "no password supplied"),
    ("expired", "right", "", {}, "password authentication failed"),
    ("locked", "right", "", {}, "is not permitted to log in"),
    ("missing", "right", "", {}, "no pg_hba.conf entry"),
    ("plain", None, "missing", {}, 'database "missing" does not exist'),
    ("plain", None, "closed", {}, "is not currently accepting connections"),
    ("plain", None, "private", {}, "permission denied for database"),
    ("rejected", None, "", {}, "pg_hba.conf rejects"),
    ("unlisted", None, "", {}, "no pg_hba.conf entry"),
    ("tls", None, "", {"sslmode": "disable"}, "no pg_hba.conf entry"),
    ("tls", None, "", {"sslmode": "verify-full", "sslrootcert": "OTHER"}, "certificate verify failed"),
    ("tls", None, "", {"sslmode": "verify-full", "sslrootcert": "OWN"}, "does not match host name"),
    ("tls", None, "", {"sslmode": "verify-ca", "sslrootcert": "/nowhere"}, "does not exist"),
    ("certified", None, "", {"sslmode": "require"}, "valid client certificate"),
    ("plain", None, "", {"sslmode": "foo"}, "invalid sslmode"),
    ("plain", None, "", {"foo": "1"}, "invalid connection option"),
]


def _url_of(
    server: Server, user: str, password: str | None, database: str, options: dict[str, str], folder: Path
) -> str:
    if options.get("sslrootcert") == "OTHER":
        options = {**options, "sslrootcert": str(_make_certificate(folder))}
    if options.get("sslrootcert") == "OWN":
        options = {**options, "sslrootcert": str(server.certificate)}
    url = server.url.set(username=user, password=password, query=options)
    return (url.set(database=database) if database else url).render_as_string(hide_password=False)


@pytest.mark.parametrize(("user", "password", "database", "options", "reason"), CASES)
def test_a_permanent_refusal_is_reported_in_one_sentence(
    user: str,
    password: str | None,
    database: str,
    options: dict[str, str],
    reason: str,
    server: Server,
    tmp_path: Path,
) -> None:
    if user in ("tls", "certified") and _run(server.url, "SHOW ssl") != [("on",)]:
        pytest.skip("this Postgres was built without TLS")
    failed = _failure_of(_url_of(server, user, password, database, options, tmp_path))
    assert failed.cause is ConnectCause.REFUSED
    text = str(failed)
    assert reason in text
    address = f"127.0.0.1:{server.url.port} (database {database or server.url.database}, user {user})"
    assert text.startswith(f"cannot connect to {address}: ")
    assert "SLUICE_DATABASE_URL" in text or "pg_hba.conf" in text
    assert PASSWORD not in text
    assert "\n" not in text


def test_the_certificate_of_the_named_host_is_accepted(server: Server) -> None:
    if _run(server.url, "SHOW ssl") != [("on",)]:
        pytest.skip("this Postgres was built without TLS")
    options = {"hostaddr": "127.0.0.1", "sslmode": "verify-full", "sslrootcert": str(server.certificate)}
    url = server.url.set(username="tls", host="elsewhere", query=options).render_as_string()
    with closing(Session(url, application_name="test")) as session:
        used = Statement("used", "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert session.run(used) == [(True,)]


def test_of_several_hosts_the_one_that_answers_is_used(server: Server) -> None:
    options = {"host": ("127.0.0.1:1", f"127.0.0.1:{server.url.port}")}
    where = URL.create(server.url.drivername, "plain", database=server.url.database, query=options)
    url = where.render_as_string()
    with closing(Session(url, application_name="test")) as session:
        assert session.run(Statement("one", "SELECT 1")) == [(1,)]


def test_a_password_may_rotate_under_load(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writers connect for each row while the password changes. Each row is written one time."""
    current = {"password": "first"}
    provider = ModuleType("rotating_provider")
    provider.password = lambda: current["password"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, provider.__name__, provider)
    _run(
        server.url,
        "CREATE ROLE rotating LOGIN PASSWORD 'first'",
        "CREATE TABLE rotated (writer int, number int)",
        "GRANT INSERT ON rotated TO rotating",
    )
    query = {"sluice_password_provider": f"{provider.__name__}:password"}
    url = server.url.set(username="rotating", password="stale", database="postgres", query=query)
    write = Statement("write", "INSERT INTO rotated VALUES ($1, $2)", ("int", "int"))
    stopped = threading.Event()
    written = [0, 0]

    def run(writer: int) -> None:
        while not stopped.is_set():
            with closing(Session(url, application_name="test")) as session, suppress(ConnectFailed):
                session.run(write, writer, written[writer])
                written[writer] += 1

    threads = [threading.Thread(target=run, args=(writer,)) for writer in range(2)]
    for thread in threads:
        thread.start()
    for number in range(3):
        before = list(written)
        _run(server.url, f"ALTER ROLE rotating PASSWORD 'p@ss {number}'")
        current["password"] = f"p@ss {number}"
        wait_until(
            lambda before=before: all(now > then + 1 for now, then in zip(written, before, strict=True)),  # type: ignore[misc]
            timeout_seconds=60,
            what="both writers use the new password",
        )
    stopped.set()
    for thread in threads:
        thread.join()
    counted = "SELECT writer, count(*), count(DISTINCT number) FROM rotated GROUP BY 1 ORDER BY 1"
    rows = _run(server.url, counted)
    assert rows == [(0, written[0], written[0]), (1, written[1], written[1])]


def test_a_server_with_too_many_connections_counts_as_away(server: Server, tmp_path: Path) -> None:
    failed = _failure_of(_url_of(server, "full", "right", "", {}, tmp_path))
    assert failed.cause is ConnectCause.AWAY


@pytest.mark.parametrize(
    ("user", "database", "cause"),
    [
        ("alice", "", ConnectCause.REFUSED),
        ("plain", "missing", ConnectCause.REFUSED),
        ("rejected", "", ConnectCause.REFUSED),
        ("unlisted", "", ConnectCause.REFUSED),
        ("full", "", ConnectCause.AWAY),
    ],
)
def test_a_refusal_in_another_language_is_recognised_by_its_sqlstate(
    user: str, database: str, cause: ConnectCause, server: Server, tmp_path: Path
) -> None:
    _reload(server.url, "ALTER SYSTEM SET lc_messages = 'C.UTF-8'")
    try:
        with pytest.raises(psycopg2.Error) as raised:
            _run(server.url, "SELECT 1 / 0")
        if "division by zero" in str(raised.value):
            pytest.skip("this Postgres has no messages in another language")
        failed = _failure_of(
            _url_of(server, user, "right" if user == "full" else PASSWORD, database, {}, tmp_path)
        )
    finally:
        _reload(server.url, "ALTER SYSTEM RESET lc_messages")
    assert failed.cause is cause


def test_a_message_in_another_encoding_is_reported(tmp_path: Path) -> None:
    text = "Passwort-Authentifizierung für Benutzer »alice« fehlgeschlagen".encode("latin-1")
    with _answering(b"SFATAL\0VFATAL\0C28P01\0M" + text + b"\0\0") as port:
        failed = _failure_of(
            f"postgresql+psycopg2://alice@127.0.0.1:{port}/shop?sslmode=disable&gssencmode=disable"
        )
    assert failed.cause is ConnectCause.REFUSED
    assert "Passwort-Authentifizierung" in str(failed)


class _answering:
    """Runs a server that answers each new session with an error. Yields the port of the server."""

    def __init__(self, fields: bytes) -> None:
        self._answer = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
        self._server = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> int:
        threading.Thread(target=self._serve, daemon=True).start()
        return int(self._server.getsockname()[1])

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                with client:
                    client.recv(10_000)
                    client.sendall(self._answer)

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


@pytest.mark.parametrize(
    ("host", "reason"),
    [("127.0.0.1:1", "Connection refused"), ("no-such-host.invalid:5432", "could not translate host name")],
)
def test_a_server_that_does_not_answer_counts_as_away(host: str, reason: str) -> None:
    failed = _failure_of(f"postgresql+psycopg2://alice@{host}/shop")
    assert failed.cause is ConnectCause.AWAY
    assert str(failed).startswith(f"cannot connect to {host} (database shop, user alice): {reason}")


def test_a_read_only_server_serves_reading_sessions(server: Server) -> None:
    url = server.url.set(username="plain").render_as_string()
    _reload(server.url, "ALTER SYSTEM SET default_transaction_read_only = on")
    try:
        failed = _failure_of(url)
        with closing(Session(url, application_name="test", may_be_read_only=True)) as session:
            assert session.run(Statement("one", "SELECT 1")) == [(1,)]
    finally:
        off = "SET default_transaction_read_only = off"
        _reload(server.url, off, "ALTER SYSTEM RESET default_transaction_read_only")
    assert failed.cause is ConnectCause.READ_ONLY
    assert str(failed).endswith("session is read-only; connect to the primary")


def _failure_of(url: str) -> ConnectFailed:
    with closing(Session(url, application_name="test")) as session, pytest.raises(ConnectFailed) as caught:
        _ = session.connection
    return caught.value
