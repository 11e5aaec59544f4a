"""The cause of a failed connect, read from the error text of libpq."""

from collections.abc import Mapping

import pytest

from sluice.db.connect_failures import (
    ConnectCause,
    ConnectFailed,
    describe_failure,
    describe_target,
    judge_connect_text,
)
from sluice.db.errors import Fault, allows_waiting_at_start, needs_new_connection, whose_fault

AT = 'connection to server at "127.0.0.1", port 5432 failed: '
SOCKET = 'connection to server on socket "/tmp/.s.PGSQL.5432" failed: '

REFUSED = [
    f'{AT}FATAL:  password authentication failed for user "alice"',
    f"{AT}fe_sendauth: no password supplied",
    f'{AT}FATAL:  role "alice" does not exist',
    f'{AT}FATAL:  role "alice" is not permitted to log in',
    f'{AT}FATAL:  Ident authentication failed for user "alice"',
    f'{AT}FATAL:  Peer authentication failed for user "alice"',
    f'{AT}FATAL:  LDAP authentication failed for user "alice"',
    f'{AT}FATAL:  PAM authentication failed for user "alice"',
    f"{AT}FATAL:  empty password returned by client",
    f"{AT}SCRAM authentication requires libpq version 10 or above",
    f"{AT}incorrect server signature in SCRAM exchange",
    f"{AT}none of the server's SASL authentication mechanisms are supported",
    f"{AT}authentication method 13 not supported",
    f'{AT}FATAL:  database "shop" does not exist',
    f'{AT}FATAL:  database "starting up" does not exist',
    f'{AT}FATAL:  database "shop" is not currently accepting connections',
    f'{AT}FATAL:  permission denied for database "shop"\nDETAIL:  User does not have CONNECT privilege.',
    f'{AT}FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "alice", database "shop", no encryption',
    f'{AT}FATAL:  pg_hba.conf rejects connection for host "10.0.0.1", user "alice", database "shop"',
    f'{AT}authentication method requirement "md5" failed: server requested SASL authentication',
    f"{AT}SSL error: certificate verify failed",
    f"{AT}SSL error: wrong version number",
    f"{AT}SSL error: tlsv1 alert unknown ca",
    f"{AT}SSL error: sslv3 alert certificate expired",
    f"{AT}SSL error: tlsv13 alert certificate required",
    f'{AT}server certificate for "db" does not match host name "10.0.0.1"',
    f'{AT}server certificate for "db" (and 2 other names) does not match host name "10.0.0.1"',
    f"{AT}server does not support SSL, but SSL was required",
    f"{AT}FATAL:  connection requires a valid client certificate",
    f'{AT}FATAL:  certificate authentication failed for user "alice"',
    f'{AT}root certificate file "/nowhere" does not exist\nEither provide the file, or change sslmode.',
    f'{AT}could not read certificate file "/nowhere": no such file',
    f'{AT}private key file "/key" has group or world access; permissions should be u=rw (0600) or less',
    'weak sslmode "require" may not be used with sslrootcert=system (use "verify-full")',
    f"{AT}channel binding required, but SSL not in use",
    "GSSAPI encryption required but no credential cache",
    'invalid sslmode value: "foo"',
    'invalid target_session_attrs value: "foo"',
    'invalid dsn: invalid connection option "foo"',
    'invalid integer value "abc" for connection option "port"',
    'invalid port number: "99999"',
    "could not match 3 port numbers to 2 hosts",
    'definition of service "shop" not found',
    f'{AT}FATAL:  unrecognized configuration parameter "foo"',
    f'{AT}FATAL:  invalid value for parameter "statement_timeout": "bar"',
    f'{AT}FATAL:  permission denied to set parameter "log_statement"',
    f"{AT}FATAL:  unsupported frontend protocol 3.0: server supports 2.0 to 2.0",
    f"{AT}received invalid response to SSL negotiation: H",
    f"{AT}expected authentication request from server, but received H",
    # Texts of PgBouncer.
    f"{AT}FATAL:  no such database: shop",
    f"{AT}FATAL:  no such user: alice",
    f"{AT}FATAL:  password authentication failed",
    f"{AT}FATAL:  SASL authentication failed",
    f"{AT}FATAL:  login rejected",
    f"{AT}FATAL:  unsupported startup parameter: options",
    f"{AT}FATAL:  unsupported startup parameter in options: statement_timeout",
    # The texts of the two attempts that sslmode=prefer makes.
    f'{AT}FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "a", database "b", SSL encryption\n'
    f'{AT}FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "a", database "b", no encryption',
    # Texts with a SQLSTATE, which a higher verbosity adds. The word before the SQLSTATE may be translated.
    *(f"FATAL:  {code}\n" for code in ("28P01", "28000", "3D000", "42501", "55000", "42704", "0A000")),
    f"{AT}ВАЖНО:  28P01",
]
AWAY = [
    f"{AT}Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
    'could not translate host name "db" to address: Name or service not known',
    'could not translate host name "db" to address: Temporary failure in name resolution',
    f"{AT}timeout expired",
    f"{AT}Connection timed out",
    f"{AT}No route to host",
    f"{AT}Network is unreachable",
    f"{SOCKET}No such file or directory\n\tIs the server running locally and accepting connections?",
    f"{AT}server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally",
    f"{AT}could not receive data from server: Connection reset by peer",
    f"{AT}SSL SYSCALL error: EOF detected",
    f"{AT}SSL error: unexpected eof while reading",
    f"{AT}server sent an error response during SSL exchange",
    f"{AT}FATAL:  the database system is starting up",
    f"{AT}FATAL:  the database system is shutting down",
    f"{AT}FATAL:  the database system is in recovery mode",
    f"{AT}FATAL:  the database system is not yet accepting connections\nDETAIL:  Consistent recovery state",
    f"{AT}FATAL:  the database system is not accepting connections\nDETAIL:  Hot standby mode is disabled.",
    f"{AT}FATAL:  sorry, too many clients already",
    f'{AT}FATAL:  too many connections for role "alice"',
    f"{AT}FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
    f"{AT}could not fork new process for connection: Cannot allocate memory",
    # Texts of PgBouncer. The last text reports that PgBouncer cannot log in to the server.
    f"{AT}FATAL:  no more connections allowed (max_client_conn)",
    f"{AT}FATAL:  pgbouncer cannot connect to server",
    f"{AT}FATAL:  query_wait_timeout",
    f"{AT}FATAL:  server login has been failing, cached error: password authentication failed",
    # Unknown texts.
    "",
    "no message from the libpq",
    f"{AT}FATAL:  Passwort-Authentifizierung für Benutzer »alice« fehlgeschlagen",
    *(f"FATAL:  {code}" for code in ("57P03", "53300", "08P01", "XX000", "58000")),
    # The texts of several hosts.
    f'{AT}Connection refused\n\tIs it running?\n{AT}FATAL:  password authentication failed for user "a"',
    f'{AT}FATAL:  database "shop" does not exist\n{AT}timeout expired',
    f"{AT}session is read-only\n{AT}timeout expired",
]
READ_ONLY = [
    f"{AT}session is read-only",
    f"{AT}server is in hot standby mode",
    f'{AT}session is read-only\n{AT}FATAL:  password authentication failed for user "a"',
]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        *((text, ConnectCause.REFUSED) for text in REFUSED),
        *((text, ConnectCause.AWAY) for text in AWAY),
        *((text, ConnectCause.READ_ONLY) for text in READ_ONLY),
    ],
)
def test_the_cause_of_a_failed_connect_is_read_from_the_text(text: str, cause: ConnectCause) -> None:
    verdict = judge_connect_text(text)
    assert verdict.cause is cause
    assert bool(verdict.advice) == (cause is not ConnectCause.AWAY)


@pytest.mark.parametrize("text", REFUSED)
def test_a_refused_login_ends_only_a_process_that_starts(text: str) -> None:
    failed = ConnectFailed(text, ConnectCause.REFUSED)
    assert not allows_waiting_at_start(failed)
    # A running process retries, because its settings were correct before.
    assert whose_fault(failed) is Fault.SURROUNDINGS
    assert needs_new_connection(failed)
    assert allows_waiting_at_start(ConnectFailed(text, ConnectCause.AWAY))
    assert allows_waiting_at_start(ConnectFailed(text, ConnectCause.READ_ONLY))


@pytest.mark.parametrize(
    ("target", "shown"),
    [
        ({"host": "db", "port": 5433, "dbname": "shop", "user": "a"}, "db:5433 (database shop, user a)"),
        ({"host": "db", "dbname": "shop", "user": "a"}, "db:5432 (database shop, user a)"),
        ({"host": "a,b", "port": "1,2", "dbname": "s", "user": "u"}, "a:1,b:2 (database s, user u)"),
        ({"host": "a,b", "port": "1", "dbname": "s", "user": "u"}, "a:1,b:1 (database s, user u)"),
        ({"host": "/run/pg", "user": "u"}, "/run/pg:5432 (database -, user u)"),
        ({}, "localhost:5432 (database -, user -)"),
    ],
)
def test_the_address_is_shown_without_the_password(
    target: Mapping[str, object], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PGHOST", "PGPORT"):
        monkeypatch.delenv(name, raising=False)
    assert describe_target({**target, "password": "secret"}) == shown


def test_a_failed_connect_is_reported_in_one_line() -> None:
    text = f'{AT}FATAL:  password authentication failed for user "alice"\n'
    target = {"host": "127.0.0.1", "port": 5432, "dbname": "shop", "user": "alice", "password": "secret"}
    assert describe_failure(text, judge_connect_text(text), target) == (
        "cannot connect to 127.0.0.1:5432 (database shop, user alice):"
        ' FATAL: password authentication failed for user "alice";'
        " correct the user or the password in SLUICE_DATABASE_URL"
    )
    away = f"{AT}Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?\n"
    assert describe_failure(away + away, judge_connect_text(away), target) == (
        "cannot connect to 127.0.0.1:5432 (database shop, user alice): Connection refused"
    )
