"""Finds the cause of a failed connection to Postgres: refused, read-only, or unavailable. Pure.

psycopg2 has no SQLSTATE for a failed connect, so the cause is found in libpq's text. libpq's own texts are
English, because a Python process does not set LC_MESSAGES. The server's texts are in the server's language.
Therefore `db/connect_probe.py` requests the SQLSTATE instead of the server's text. An unknown text counts as
unavailable.
"""

import os
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple

import psycopg2

SETTING = "SLUICE_DATABASE_URL"


class ConnectCause(Enum):
    """The cause of a failed connect."""

    AWAY = "away"
    """The server may answer later."""
    READ_ONLY = "read-only"
    """The server answers, but is a standby or refuses writes. The server may become the primary."""
    REFUSED = "refused"
    """The connection succeeds only after an operator has changed a setting."""


class ConnectFailed(psycopg2.OperationalError):
    """Postgres was not reached, or refused the connection.

    The message contains the address, and never a password.
    """

    def __init__(self, message: str, cause: ConnectCause) -> None:
        super().__init__(message)
        self.cause = cause

    @property
    def is_refused(self) -> bool:
        """Returns True if a later attempt would fail too."""
        return self.cause is ConnectCause.REFUSED


class Verdict(NamedTuple):
    """The cause of a failed connect, and the advice. The advice is empty if the failure may end by itself."""

    cause: ConnectCause
    advice: str = ""
    is_known: bool = True


USER = f"correct the user or the password in {SETTING}"
DATABASE = f"correct the database in {SETTING}, or create it"
ACCESS = "allow this user, database and address in the server's pg_hba.conf"
TLS = f"correct the certificates, or sslmode, sslrootcert, sslcert and sslkey in {SETTING}"
URL = f"correct {SETTING}"
SERVER = f"check host and port in {SETTING}: another kind of server answers there"
PRIMARY = "connect to the primary"
POOLER = f"remove the parameter from {SETTING} and from the environment: PgBouncer does not accept it"

# Verdict → regular expressions, which ignore case. The first verdict with a matching expression applies.
_TEXTS: tuple[tuple[Verdict, tuple[str, ...]], ...] = (
    # Messages of PgBouncer about PgBouncer's own connection to the server.
    (Verdict(ConnectCause.AWAY), ("server login has been failing", "server_login_retry")),
    (
        Verdict(ConnectCause.READ_ONLY, PRIMARY),
        ("session is (not )?read-only", "server is (not )?in hot standby mode"),
    ),
    (
        Verdict(ConnectCause.REFUSED, ACCESS),
        (
            "no pg_hba.conf entry",
            "pg_hba.conf rejects",
            "authentication method requirement",
            "login rejected",
        ),
    ),
    (
        Verdict(ConnectCause.REFUSED, TLS),
        (
            *("certificate verify failed", "certificate for .* does not match", "certificate authentication"),
            *(
                "valid client certificate",
                "client certificates can only",
                "certificate file",
                "private key file",
            ),
            *("does not support SSL", "SSL was required", "SSL connection is required", "weak sslmode"),
            *("SSL error: (?!.*unexpected eof)", "channel binding", "sslrootcert"),
        ),
    ),
    (
        Verdict(ConnectCause.REFUSED, USER),
        (
            *("authentication failed", "no password supplied", "empty password", "wrong password type"),
            *("role .* does not exist", "is not permitted to log in", "no such user", "user not found"),
            *("SCRAM", "SASL", r"authentication method \d+ not supported"),
        ),
    ),
    (
        Verdict(ConnectCause.REFUSED, DATABASE),
        (
            *('database ".*" does not exist', "no such database", "permission denied for database"),
            'database ".*" is not currently accepting connections',
        ),
    ),
    (Verdict(ConnectCause.REFUSED, POOLER), ("unsupported startup parameter",)),
    (
        Verdict(ConnectCause.REFUSED, SERVER),
        (
            *("invalid response to (SSL|GSSAPI) negotiation", "received invalid (authentication|protocol)"),
            *("unsupported frontend protocol", "expected authentication request from server"),
        ),
    ),
    (
        Verdict(ConnectCause.REFUSED, URL),
        (
            *("invalid dsn", "invalid connection option", "invalid integer value", "invalid port number"),
            *(r"invalid \w+ value:", r"could not match \d+ ", "definition of service", "service file"),
            *(
                "unrecognized configuration parameter",
                "invalid value for parameter",
                'parameter ".*" cannot be',
            ),
            *("permission denied to set parameter", "GSSAPI"),
        ),
    ),
    (
        Verdict(ConnectCause.AWAY),
        (
            *("could not translate host name", "Connection refused", "unreachable", "No route to host"),
            *("timeout", "timed out", "No such file or directory", "Connection reset", "SSL SYSCALL error"),
            *(
                "closed the connection unexpectedly",
                "unexpected eof",
                "could not (receive|send|connect|fork)",
            ),
            *(
                "starting up",
                "shutting down",
                "in recovery mode",
                "accepting connections",
                "connection slots",
            ),
            *("too many (connections|clients)", "no more connections allowed", "cannot connect to server"),
        ),
    ),
)
_COMPILED = tuple((verdict, re.compile("|".join(patterns), re.IGNORECASE)) for verdict, patterns in _TEXTS)

# Matches a line of libpq with the verbosity `PQERRORS_SQLSTATE`. The word before the SQLSTATE may be
# translated.
_SQLSTATE = re.compile(r"^[^\s:]+:\s+([0-9A-Z]{5})$")
_BY_SQLSTATE = {
    "28P01": Verdict(ConnectCause.REFUSED, USER),
    "28000": Verdict(ConnectCause.REFUSED, f"{USER}, or {ACCESS}"),
    "3D000": Verdict(ConnectCause.REFUSED, DATABASE),
    "42501": Verdict(ConnectCause.REFUSED, DATABASE),
    "55000": Verdict(ConnectCause.REFUSED, DATABASE),
    "42704": Verdict(ConnectCause.REFUSED, URL),
    "22023": Verdict(ConnectCause.REFUSED, URL),
    "0A000": Verdict(ConnectCause.REFUSED, SERVER),
}
UNKNOWN = Verdict(ConnectCause.AWAY, is_known=False)

# libpq tries several addresses, and each address twice with sslmode=prefer. The text of each attempt begins
# as follows.
_ATTEMPT = re.compile(r"^(?=connection to server |could not translate host name )", re.MULTILINE)
_GUESS = re.compile(r"\n\t.*")
_PREFIX = re.compile(r"^connection to server (?:at|on) .*? failed: ", re.DOTALL)


def judge_connect_text(text: str) -> Verdict:
    """Returns the verdict for libpq's text.

    If one of several hosts is unavailable, the verdict is "unavailable".
    """
    verdicts = [_judge_attempt(attempt) for attempt in _ATTEMPT.split(text) if attempt.strip()]
    for cause in (ConnectCause.AWAY, ConnectCause.READ_ONLY):
        for verdict in verdicts:
            if verdict.cause is cause:
                return verdict
    return verdicts[-1] if verdicts else UNKNOWN


def _judge_attempt(text: str) -> Verdict:
    reason = _PREFIX.sub("", text).strip()
    code = _SQLSTATE.match(reason)
    if code is not None:
        return _BY_SQLSTATE.get(code[1], Verdict(ConnectCause.AWAY))
    return next((verdict for verdict, pattern in _COMPILED if pattern.search(reason)), UNKNOWN)


def describe_failure(text: str, verdict: Verdict, target: Mapping[str, Any]) -> str:
    """Returns one sentence with the address, libpq's reason and the advice.

    `target`: the connection options.
    """
    # libpq writes guesses about the cause on lines that begin with a tab. These lines are left out.
    attempts = [_PREFIX.sub("", part) for part in _ATTEMPT.split(_GUESS.sub("", text)) if part.strip()]
    reasons = dict.fromkeys(" ".join(attempt.split()).rstrip(".") for attempt in attempts)
    reason = "; ".join(reasons) or "no reason was given"
    advice = f"; {verdict.advice}" if verdict.advice else ""
    return f"cannot connect to {describe_target(target)}: {reason}{advice}"


def describe_target(target: Mapping[str, Any]) -> str:
    """Returns host:port of each host, the database and the user."""
    hosts = _words(target.get("host") or target.get("hostaddr") or os.environ.get("PGHOST")) or ["localhost"]
    ports = _words(target.get("port") or os.environ.get("PGPORT")) or ["5432"]
    addresses = [f"{host}:{ports[at % len(ports)]}" for at, host in enumerate(hosts)]
    return f"{','.join(addresses)} (database {target.get('dbname', '-')}, user {target.get('user', '-')})"


def _words(value: object) -> list[str]:
    return [word for word in str(value or "").split(",") if word]
