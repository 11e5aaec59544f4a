"""The rules of `sluice doctor` about the Postgres server: writes, disk, standbys, vacuum. Pure."""

import re
from collections.abc import Iterator, Sequence

from sluice.admin.doctor.facts import PostgresFacts
from sluice.admin.doctor.findings import Finding, error, warning
from sluice.admin.doctor.rules_retrying import describe_holder, say_duration
from sluice.db.admin.doctor_facts import ServerSettings
from sluice.db.admin.server_facts import Horizon, Replication
from sluice.runtime.terminal_text import counted, plural

OLD_FACTOR = 10
"""A transaction is old after this multiple of the patience, because a report or a backup takes minutes."""
MANY_TRANSACTIONS = 1_000_000
"""A holder without a start time is old after so many transactions."""
MOST_HORIZONS = 5
WAL_PER_INDEX = 3
"""max_wal_size divided by the index of identities, for at most 1.5 kB of WAL per event.

After a checkpoint, the first identity in each page of the index writes the whole page. Checkpoints begin
after about half of max_wal_size.
"""
MIB = 1024 * 1024
_NO_STANDBY_COMMIT = frozenset({"off", "local"})
_DISK_FULL = "DiskFull"
_CLEANING = "Until you do this, tables grow and statements become slower."


def server_problems(postgres: PostgresFacts, *, patience_seconds: float) -> Iterator[Finding]:
    """Yields problems of the server that prevent or slow down every batch."""
    yield from _read_only(postgres.server)
    yield from _disk_full(postgres)
    yield from _checkpoints(postgres.server)
    if postgres.working is not None:
        yield from _standby(postgres.working.replication, postgres.server, patience_seconds)
        yield from _horizons(postgres.working.horizons, patience_seconds)


def _read_only(server: ServerSettings) -> Iterator[Finding]:
    if server.read_only:
        yield error(
            f"Postgres can only be read: {server.read_only}.",
            "Set SLUICE_DATABASE_URL to the primary, with writes allowed.",
        )


def _checkpoints(server: ServerSettings) -> Iterator[Finding]:
    wanted = WAL_PER_INDEX * server.identity_bytes
    if server.max_wal_bytes < wanted:
        yield warning(
            f"The index of identities has {server.identity_bytes // MIB} MiB, and max_wal_size is"
            f" {server.max_wal_bytes // MIB} MiB: after each checkpoint most events write a whole page of"
            " WAL.",
            f"Set max_wal_size to {-(-wanted // MIB)} MB or more, and checkpoint_timeout to 30min; then"
            " reload Postgres.",
        )


def _disk_full(postgres: PostgresFacts) -> Iterator[Finding]:
    failures = [one.error for one in postgres.narrowed] + [one.error for one in postgres.retrying]
    full = [text for text in failures if text.startswith(_DISK_FULL)]
    if full:
        yield error(
            f"A disk of Postgres is full: {full[0].splitlines()[0][:200].rstrip('.')}.",
            "Free space on the disk that the message names; Sluice then retries everything by itself.",
        )


def _standby(replication: Replication, server: ServerSettings, patience_seconds: float) -> Iterator[Finding]:
    needed = count_needed(replication.standby_names)
    waiting = ""
    if replication.waiting:
        commits = counted(replication.waiting, "waits", "wait")
        waiting = f"; {commits} now, the oldest for {say_duration(replication.seconds)}"
    if needed > replication.connected and server.synchronous_commit not in _NO_STANDBY_COMMIT:
        yield error(
            "Commits wait for a synchronous standby that is not connected: synchronous_standby_names"
            f" ({replication.standby_names}) requires {needed}, connected: {replication.connected}{waiting}.",
            "Start the standby, or remove it: `ALTER SYSTEM SET synchronous_standby_names = ''` and `SELECT"
            " pg_reload_conf()`.",
        )
    elif replication.waiting and replication.seconds >= patience_seconds:
        yield warning(
            f"Commits wait for a synchronous standby{waiting}.",
            "Check the standby and the network to it: pg_stat_replication shows its progress.",
        )


def count_needed(standby_names: str) -> int:
    """Returns the number of standbys that a commit waits for, as synchronous_standby_names requires."""
    text = standby_names.strip()
    if not text:
        return 0
    several = re.match(r"(?:(?:FIRST|ANY)\s+)?(\d+)\s*\(", text, re.IGNORECASE)
    return int(several[1]) if several else 1


def _horizons(horizons: Sequence[Horizon], patience_seconds: float) -> Iterator[Finding]:
    old = [one for one in horizons if _is_old(one, patience_seconds)]
    for one in old[:MOST_HORIZONS]:
        since = (
            f"{one.transactions} {plural(one.transactions or 0, 'transaction')}"
            if one.seconds is None
            else say_duration(one.seconds)
        )
        yield warning(
            f"Vacuum cannot remove rows that were deleted in the last {since}, because of {_describe(one)}.",
            f"{_advice(one)} {_CLEANING}",
        )


def _is_old(one: Horizon, patience_seconds: float) -> bool:
    if one.seconds is None:
        return one.transactions >= MANY_TRANSACTIONS
    return one.seconds >= OLD_FACTOR * patience_seconds


def _describe(one: Horizon) -> str:
    if one.kind == "session":
        return describe_holder({**one._asdict(), "pid": int(one.name)})
    if one.kind == "prepared":
        return f"the prepared transaction {one.name} of {one.user}"
    if one.kind == "slot":
        return f"the replication slot {one.name}, which is {one.state}"
    return f"the standby {one.name}, on which a long query runs"


def _advice(one: Horizon) -> str:
    name = one.name.replace("'", "''")
    if one.kind == "session":
        return f"End its transaction, or run `SELECT pg_terminate_backend({one.name})`."
    if one.kind == "prepared":
        return f"Run `COMMIT PREPARED '{name}'` or `ROLLBACK PREPARED '{name}'`."
    if one.kind == "slot":
        return f"Start its consumer, or run `SELECT pg_drop_replication_slot('{name}')`."
    return "End the query on the standby, or set hot_standby_feedback = off there."
