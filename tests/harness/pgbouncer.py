"""PgBouncer in front of a running Postgres."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url

from sluice.stack import ComponentMissing
from sluice.stack.ports import LOOPBACK, choose_ports, is_listening
from sluice.stack.postgres_files import REACHABLE_FOLDER, give_to, server_user
from sluice.stack.processes import group_of
from tests.waiting import wait_until

CONFIGURATION = """\
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = {loopback}
listen_port = {own_port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {mode}
default_pool_size = {pool_size}
max_client_conn = 500
tcp_keepidle = 6
tcp_keepintvl = 2
tcp_keepcnt = 3
"""


@contextmanager
def pgbouncer(
    database_url: str, mode: str = "session", *, pool_size: int = 50, users: Sequence[str] = ()
) -> Iterator[str]:
    """Yields the URL of the same database through a PgBouncer of this mode."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        raise ComponentMissing("no PgBouncer found: install it (Debian: apt install pgbouncer)")
    url = make_url(database_url)
    assert url.username is not None
    own_port = choose_ports(("pgbouncer",), {}, set())["pgbouncer"]
    # Its user must reach the folder, and PgBouncer refuses to run as root.
    user = server_user()
    folder = Path(tempfile.mkdtemp(prefix="sluice-stack-", dir=REACHABLE_FOLDER))
    (folder / "users").write_text("".join(f'"{user}" ""\n' for user in (url.username, *users)))
    configuration = folder / "pgbouncer.ini"
    configuration.write_text(
        CONFIGURATION.format(
            host=url.host,
            port=url.port,
            loopback=LOOPBACK,
            own_port=own_port,
            users=folder / "users",
            mode=mode,
            pool_size=pool_size,
        )
    )
    give_to(user, folder)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, str(configuration)],
            stdout=log,
            stderr=log,
            user=user,
            group=None if user is None else group_of(user),
            extra_groups=None if user is None else [],
        )
    try:
        wait_until(lambda: is_listening(own_port), timeout_seconds=30, what="PgBouncer listens")
        yield url.set(port=own_port).render_as_string(hide_password=False)
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(folder)
