"""Tests which errors of Redis an operator must solve, and how these errors are reported."""

import pytest
from redis import exceptions

from sluice.runtime.redis_failures import describe_failure, find_advice, redis_address

SSL = "Error 1 connecting to 127.0.0.1:6380. [SSL: {}] {} (_ssl.c:1006)."
REFUSED = [
    exceptions.AuthenticationError("Authentication required."),
    exceptions.AuthenticationError("invalid username-password pair or user is disabled."),
    exceptions.ResponseError("WRONGPASS invalid username-password pair or user is disabled."),
    exceptions.ResponseError("NOAUTH Authentication required."),
    exceptions.AuthenticationError(
        "AUTH <password> called without any password configured for the default user."
    ),
    exceptions.NoPermissionError("this user has no permissions to run the 'hscan' command"),
    exceptions.ResponseError("NOPERM this user has no permissions to access one of the keys"),
    exceptions.ResponseError("DB index is out of range"),
    exceptions.ConnectionError("the Sentinels know no server with the name 'main'"),
    exceptions.ResponseError("the server runs in cluster mode"),
    exceptions.ConnectionError(SSL.format("CERTIFICATE_VERIFY_FAILED", "certificate verify failed")),
    exceptions.ConnectionError(SSL.format("WRONG_VERSION_NUMBER", "wrong version number")),
    exceptions.ConnectionError(SSL.format("TLSV1_ALERT_UNKNOWN_CA", "tlsv1 alert unknown ca")),
    exceptions.ConnectionError(SSL.format("TLSV13_ALERT_CERTIFICATE_REQUIRED", "certificate required")),
    exceptions.ResponseError("DENIED Redis is running in protected mode because protected mode is enabled"),
    exceptions.InvalidResponse("Protocol Error: b'HTTP/1.1 400 Bad Request'"),
]
AWAY = [
    exceptions.ConnectionError("Error 111 connecting to 127.0.0.1:6379. Connection refused."),
    exceptions.ConnectionError("Error -2 connecting to redis:6379. Name or service not known."),
    exceptions.ConnectionError("Connection closed by server."),
    exceptions.ConnectionError(SSL.format("UNEXPECTED_EOF_WHILE_READING", "EOF occurred")),
    exceptions.TimeoutError("Timeout connecting to server"),
    exceptions.ConnectionError("the Sentinels see no running server with the name 'main'"),
    exceptions.ConnectionError("no Sentinel answers: Connection refused."),
    exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
    exceptions.ReadOnlyError("You can't write against a read only replica."),
    exceptions.ResponseError("MASTERDOWN Link with MASTER is down"),
    exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    exceptions.MaxConnectionsError("Too many connections"),
    exceptions.ResponseError("max number of clients reached"),
]


@pytest.mark.parametrize(
    ("error", "is_refused"), [*((one, True) for one in REFUSED), *((one, False) for one in AWAY)]
)
def test_advice_is_given_only_for_errors_that_retries_cannot_solve(
    error: Exception, is_refused: bool
) -> None:
    assert (find_advice(error) is not None) == is_refused


def test_an_error_is_reported_in_one_line_without_the_password() -> None:
    error = exceptions.AuthenticationError("invalid username-password pair\nor user is disabled.")
    assert describe_failure(error, "redis://alice:secret@cache:6380/3") == (
        "cannot use cache:6380/3 (user alice): invalid username-password pair or user is disabled;"
        " correct the user or the password in SLUICE_REDIS_URL or SLUICE_REDIS_PASSWORD"
        " (SLUICE_REDIS_SENTINEL_PASSWORD for Sentinels)"
    )


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://127.0.0.1:6379/0", "127.0.0.1:6379/0"),
        ("rediss://:secret@cache", "cache:6379/0"),
        ("redis://[::1]:7000/1", "[::1]:7000/1"),
        ("unix://:secret@/run/redis.sock?db=2", "/run/redis.sock"),
        ("sentinel://:secret@a,b:7000/main/1", "a:26379,b:7000/main/1"),
    ],
)
def test_the_address_is_shown_without_the_password(url: str, address: str) -> None:
    assert redis_address(url) == address
