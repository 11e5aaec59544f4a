"""Classifies failures to reach Redis: a permanent refusal, or an outage. Pure.

A refusal needs an operator: credentials, rights, a database number, certificates. Other failures may end by
themselves.
"""

import re

from sluice.runtime.redis_address import parse_redis_url

SETTING = "SLUICE_REDIS_URL"

_ADVICE = (
    (
        "WRONGPASS|NOAUTH|AuthenticationError|already authenticated|invalid username-password"
        "|invalid password|without any password configured|no password is set|Authentication required",
        f"correct the user or the password in {SETTING} or SLUICE_REDIS_PASSWORD"
        " (SLUICE_REDIS_SENTINEL_PASSWORD for Sentinels)",
    ),
    ("Sentinels know no server", f"correct the name in {SETTING}"),
    ("server runs in cluster mode", "use a Redis without cluster mode, alone or with Sentinel"),
    (r"NOPERM|no permissions? to", "allow the command to the user with ACL SETUSER"),
    (r"DB index is out of range|SELECT is not allowed", f"correct the number of the database in {SETTING}"),
    (
        r"CERTIFICATE.VERIFY.FAILED|WRONG.VERSION.NUMBER|CERTIFICATE.REQUIRED|ALERT.UNKNOWN.CA"
        r"|BAD.CERTIFICATE|HANDSHAKE.FAILURE|NO.SHARED.CIPHER|UNSUPPORTED.PROTOCOL",
        f"correct redis:// or rediss:// and the certificates in {SETTING}",
    ),
    (
        r"DENIED Redis is running in protected mode",
        "set a password or bind addresses in Redis' configuration",
    ),
    (
        r"Protocol Error|Invalid Database|HTTP/1",
        f"check host and port in {SETTING}: another kind of server answers",
    ),
)
_COMPILED = tuple((re.compile(pattern, re.IGNORECASE), advice) for pattern, advice in _ADVICE)


def find_advice(error: BaseException) -> str | None:
    """Returns the remedy for an operator; None if the failure may end by itself."""
    # The reason of a TLS error is only in the text.
    text = f"{type(error).__name__}: {error}"
    return next((advice for pattern, advice in _COMPILED if pattern.search(text)), None)


def describe_failure(error: BaseException, redis_url: str) -> str:
    """Returns one sentence with the address, the reason and the remedy."""
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    advice = find_advice(error)
    return f"cannot use {redis_address(redis_url)}: {reason}" + ("" if advice is None else f"; {advice}")


def redis_address(redis_url: str) -> str:
    """Returns host:port/database, and the user if there is one; never the password. Raises ValueError."""
    return str(parse_redis_url(redis_url))
