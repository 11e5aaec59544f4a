"""Opens connections to Postgres, and describes the cause of a failed connect in one sentence."""

from collections.abc import Mapping
from typing import Any

import psycopg2
import psycopg2.extensions
from sqlalchemy.engine import URL, make_url

from sluice.db.connect_failures import ConnectCause, ConnectFailed, describe_failure, judge_connect_text
from sluice.db.connect_probe import read_sqlstate_text
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


def open_connection(
    url: URL, *, options: str, application_name: str, may_be_read_only: bool = False
) -> psycopg2.extensions.connection:
    """Connects to the primary. Raises ConnectFailed.

    With `may_be_read_only`, accepts a standby or a server that refuses writes, if no primary answers.
    `options` are the settings of the session in libpq's form. The files of secrets are read at each connect.
    """
    url = _with_current_secrets(url)
    target: dict[str, Any] = {**CONNECTION, **url.query}
    target |= url.translate_connect_args(username="user", database="dbname")
    target.setdefault("target_session_attrs", "read-write")
    target |= {"options": options, "application_name": application_name}
    try:
        return _connect(target)
    except ConnectFailed as failed:
        if failed.cause is not ConnectCause.READ_ONLY or not may_be_read_only:
            raise
    return _connect({**target, "target_session_attrs": "any"})


def _with_current_secrets(url: URL) -> URL:
    try:
        return make_url(current_url(url.render_as_string(hide_password=False)))
    except SecretUnreadable as error:
        # The file may be replaced at this moment.
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
    verdict = judge_connect_text(text)
    if not verdict.is_known:
        verdict = judge_connect_text(read_sqlstate_text(target) or text)
    raise ConnectFailed(describe_failure(text, verdict, target), verdict.cause)
