"""A Redis with TLS, a user of least rights, and an administrator."""

import hashlib
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from redis import Redis

from sluice.runtime.installation import NAME_PATTERN
from sluice.stack.atomic_folders import write_whole
from sluice.stack.ports import LOOPBACK
from sluice.stack.redis_server import RedisServer, find_redis_server
from sluice.stack.secure_files import ADMINISTRATOR, authority_file, read_password
from sluice.stack.service import ComponentMissing, Place, Report, StackError

USER = "sluice"
"""The user of Sluice's processes."""
LEAST_RIGHTS = ("&*", "+@all", "-@dangerous", "-@admin", "+info")
"""The rights beside those to keys, as in docs/redis.md."""
_TLS_CHECK_SECONDS = 30


class SecureRedisServer(RedisServer):
    """One Redis that accepts TLS only, and no client without a login.

    `tls` is the folder of the stack's secure files. `name` is the name of the installation whose keys the
    user may use. Raises StackError for a wrong name.
    """

    def __init__(self, tls: Path, name: str) -> None:
        # The name becomes a part of a rule, in which a space would begin another right.
        if not re.fullmatch(NAME_PATTERN, name):
            raise StackError(f"SLUICE_NAME: {name!r} does not match {NAME_PATTERN}")
        self._tls, self._name = tls, name

    def prepare(self, place: Place, report: Report) -> None:
        if not has_tls(find_redis_server()):
            raise ComponentMissing("redis-server has no TLS: install one with TLS (Debian: redis-server)")
        super().prepare(place, report)
        users = _users_file(place)
        users.touch(mode=0o600)
        write_whole(users, self._users())

    def renew_users(self, place: Place) -> None:
        """Gives the user of a running server the rights to the keys of `name`. Idempotent."""
        with Redis(host=LOOPBACK, port=place.ports["redis"], **self._login()) as client:
            client.execute_command("ACL", "SETUSER", USER, "resetkeys", _keys(self._name))

    def _users(self) -> str:
        rights = " ".join((_keys(self._name), *LEAST_RIGHTS))
        user, administrator = (_hash(read_password(self._tls, name)) for name in ("redis", "redis-admin"))
        return (
            "user default reset off\n"
            f"user {USER} reset on #{user} {rights}\n"
            f"user {ADMINISTRATOR} reset on #{administrator} ~* &* +@all\n"
        )

    def _access(self, place: Place) -> Mapping[str, object]:
        return {
            "port": 0,
            "tls-port": place.ports["redis"],
            "tls-cert-file": self._tls / "redis.pem",
            "tls-key-file": self._tls / "redis.key",
            "tls-ca-cert-file": authority_file(self._tls),
            "tls-auth-clients": "no",
            "aclfile": _users_file(place),
        }

    def _login(self) -> Mapping[str, Any]:
        password = read_password(self._tls, "redis-admin")
        authority = str(authority_file(self._tls))
        return {"username": ADMINISTRATOR, "password": password, "ssl": True, "ssl_ca_certs": authority}


def secure_url(tls: Path, port: int, number: int, user: str = USER) -> str:
    """Returns the URL of a database of the server, for USER or ADMINISTRATOR."""
    password = read_password(tls, "redis" if user == USER else "redis-admin")
    options = urlencode({"ssl_ca_certs": str(authority_file(tls))})
    return f"rediss://{user}:{password}@{LOOPBACK}:{port}/{number}?{options}"


def has_tls(program: Path) -> bool:
    """Returns True if this redis-server was built with TLS."""
    # Both configurations are refused: without TLS at the first option, otherwise at the second.
    words = ("--tls-auth-clients", "no", "--dir", "/dev/null")
    done = subprocess.run(
        [program, "--port", "0", *words],
        capture_output=True,
        text=True,
        timeout=_TLS_CHECK_SECONDS,
        check=False,
    )
    return "tls-auth-clients" not in done.stdout + done.stderr


def _keys(name: str) -> str:
    return f"~{name}-*"


def _hash(password: str) -> str:
    return hashlib.sha256(password.encode()).hexdigest()


def _users_file(place: Place) -> Path:
    return place.home / "users.acl"
