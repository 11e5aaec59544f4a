"""Opens connections to Postgres, and describes the cause of a failed connect in one sentence."""

from collections.abc import Mapping
from typing import Any

import psycopg2
import psycopg2.extensions
from sqlalchemy.engine import URL, make_url

from sluice.db.connect_failures import (
    SETTING,
    ConnectCause,
    ConnectFailed,
    Verdict,
    describe_failure,
    judge_connect_text,
)
from sluice.db.connect_probe import read_sqlstate_text
from sluice.db.pooler_check import require_own_backend
from sluice.db.session_settings import setting_commands
from sluice.runtime.database_url import UrlRefused, libpq_options
from sluice.runtime.password_provider import PROVIDER_SETTING, ProviderFailed, ProviderRefused
from sluice.runtime.secret_files import SecretUnreadable, current_url

# Options for an unreachable server, or a network that drops packets. Without them, a worker would wait for
# the kernel's time-out of 15 minutes. They do not limit the time of a statement that the server's machine has
# received.
CONNECTION = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}
STANDARD_STRINGS = "-c standard_conforming_strings=on"


def open_connection(
    url: URL, *, settings: Mapping[str, str], application_name: str, may_be_read_only: bool = False
) -> psycopg2.extensions.connection:
    """Connects to the primary. Raises ConnectFailed.

    With `may_be_read_only`, accepts a standby or a server that refuses writes, if no primary answers.
    `settings` are settings of the session, in addition to those that every session of Sluice has. The files
    of secrets are read, and the password's provider is asked, at each connect.
    """
    url = _with_current_secrets(url)
    try:
        target: dict[str, Any] = {**CONNECTION, "options": "", **libpq_options(url)}
    except UrlRefused as refused:
        raise ConnectFailed(f"{SETTING}: {refused}", ConnectCause.REFUSED) from None
    # These options prevail over PGOPTIONS, PGCLIENTENCODING, a service file, the role and the database.
    target |= {"client_encoding": "UTF8", "application_name": application_name}
    try:
        return _opened(target, settings)
    except ConnectFailed as failed:
        if failed.cause is not ConnectCause.READ_ONLY or not may_be_read_only:
            raise
    return _opened({**target, "target_session_attrs": "any"}, settings)


def _opened(target: Mapping[str, Any], settings: Mapping[str, str]) -> psycopg2.extensions.connection:
    connection = _connect(target)
    if connection.info.parameter_status("standard_conforming_strings") == "off":
        # psycopg2 chooses the form of its literals when it connects. After a later SET they would be wrong.
        connection.close()
        connection = _connect({**target, "options": f"{target['options']} {STANDARD_STRINGS}"})
    try:
        # After the connect and not by the startup parameter `options`, which PgBouncer refuses or drops.
        connection.autocommit = True
        require_own_backend(connection, target)
        with connection.cursor() as cursor:
            cursor.execute(setting_commands(settings, connection.server_version))
        connection.autocommit = False
    except ConnectFailed:
        connection.close()
        raise
    except psycopg2.Error as error:
        connection.close()
        verdict = judge_connect_text(str(error))
        raise ConnectFailed(describe_failure(str(error), verdict, target), verdict.cause) from error
    return connection


def _with_current_secrets(url: URL) -> URL:
    try:
        return make_url(current_url(url.render_as_string(hide_password=False)))
    except ProviderRefused as error:
        raise ConnectFailed(f"{PROVIDER_SETTING}: {error}", ConnectCause.REFUSED) from None
    except (SecretUnreadable, ProviderFailed) as error:
        # The file may be replaced at this moment, and the provider's server may be absent.
        raise ConnectFailed(f"cannot connect to Postgres: {error}", ConnectCause.AWAY) from None


def _connect(target: Mapping[str, Any]) -> psycopg2.extensions.connection:
    try:
        connection: psycopg2.extensions.connection = psycopg2.connect(**target)
        return connection
    except psycopg2.Error as error:
        text = str(error)
    except UnicodeDecodeError as error:
        # The server's messages cannot be decoded, because they have another encoding.
        text = error.object.decode(errors="replace")
    if STANDARD_STRINGS in target["options"] and "unsupported startup parameter" in text:
        text = "standard_conforming_strings is off for this role or database, and PgBouncer cannot set it"
        verdict = Verdict(ConnectCause.REFUSED, "set it to on, with ALTER ROLE or ALTER DATABASE")
        raise ConnectFailed(describe_failure(text, verdict, target), verdict.cause)
    verdict = judge_connect_text(text)
    if not verdict.is_known:
        verdict = judge_connect_text(read_sqlstate_text(target) or text)
    raise ConnectFailed(describe_failure(text, verdict, target), verdict.cause)
