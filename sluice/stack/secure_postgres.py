"""A Postgres with TLS, whose users log in with a password."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from sluice.stack.ports import LOOPBACK
from sluice.stack.postgres_files import give_to
from sluice.stack.postgres_server import SUPERUSER, PostgresServer
from sluice.stack.secure_files import authority_file, read_password
from sluice.stack.service import Place

CERTIFICATE, KEY = "stack.pem", "stack.key"
ACCESS_RULES = f"""\
# Only logins with TLS and a password are accepted.
hostssl all all {LOOPBACK}/32 scram-sha-256
hostssl replication all {LOOPBACK}/32 scram-sha-256
"""


class SecurePostgresServer(PostgresServer):
    """One Postgres that accepts TLS and scram-sha-256 only.

    `tls` is the folder of the stack's secure files.
    """

    def __init__(self, tls: Path) -> None:
        self._tls = tls

    def _init(self, place: Place, part: Path, user: str | None) -> None:
        folder = _password_folder(place)
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            (folder / "password").write_text(read_password(self._tls, "postgres"))
            give_to(user, folder)
            super()._init(place, part, user)
        finally:
            shutil.rmtree(folder)

    def _complete(self, data: Path) -> None:
        # The user of Postgres may not be able to read the secure files, so the server gets copies.
        for name, source in {CERTIFICATE: "postgres.pem", KEY: "postgres.key"}.items():
            copy = data / name
            copy.unlink(missing_ok=True)
            copy.touch(mode=0o600)
            copy.write_text((self._tls / source).read_text())
        (data / "pg_hba.conf").write_text(ACCESS_RULES)

    def _authentication(self, place: Place) -> Sequence[str]:
        return ("--auth=scram-sha-256", f"--pwfile={_password_folder(place) / 'password'}")

    def _login(self) -> Mapping[str, Any]:
        return login_options(self._tls)

    def _settings(self, place: Place) -> Mapping[str, str]:
        files = {"ssl_cert_file": CERTIFICATE, "ssl_key_file": KEY}
        return {**super()._settings(place), "ssl": "on", **files}


def secure_url(tls: Path, port: int, database: str) -> str:
    """Returns the URL of a database of the server, for its superuser."""
    options = login_options(tls)
    password = options.pop("password")
    return f"postgresql+psycopg2://{SUPERUSER}:{password}@{LOOPBACK}:{port}/{database}?{urlencode(options)}"


def login_options(tls: Path) -> dict[str, str]:
    """Returns the options of libpq for a superuser that verifies the server and logs in."""
    files = {"sslmode": "verify-full", "sslrootcert": str(authority_file(tls))}
    return {"password": read_password(tls, "postgres"), **files}


def _password_folder(place: Place) -> Path:
    """Returns the folder in which initdb, as the user of Postgres, finds the password."""
    return place.data.parent / ".password.part"
