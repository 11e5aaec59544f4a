"""`sluice redis ls|clean`: shows the keys of installations in Redis, and deletes the keys of a
former installation.
"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

import typer

from sluice.admin.connection import connected
from sluice.admin.decisions import decide
from sluice.admin.documents import as_json
from sluice.admin.redis_keys import (
    PrefixUse,
    delete_prefix,
    open_redis,
    read_prefix,
    read_prefixes,
    require_cleanable,
)
from sluice.cli.confirmation import DryRun, Reason, Yes, require_confirmation
from sluice.cli.output import print_refusal, say, say_document
from sluice.cli.printing import AsJson, say_age
from sluice.cli.tables import Table, table_of
from sluice.db.admin.audit import insert_audits
from sluice.db.delivery.installation import read_installation
from sluice.db.delivery.living_processes import read_living
from sluice.runtime.service_urls import read_addresses
from sluice.runtime.settings import read_settings
from sluice.runtime.terminal_text import counted
from sluice.tasks.installation.opening import check_installation

redis_app = typer.Typer(
    help="Show the keys of installations in Redis; delete the keys of former installations.",
    no_args_is_help=True,
)


@redis_app.command()
def ls(as_json_: AsJson = False) -> None:
    """Show each installation's prefix in this Redis database: its keys, their size, and the last use.

    Keys without the prefix of an installation are on a separate line: they
    belong to other programs or to an earlier version of Sluice (unacked,
    unacked_index, _kombu.binding.*, sluice:*, and lists named like queues).

    Last use: "-" if the server does not record it (maxmemory-policy *lfu).
    """
    with connected("sluice redis", report_refusal=print_refusal) as session:
        stored = read_installation(session)
    own = stored.installation.group if stored else None
    with open_redis(read_addresses(read_settings()).redis_url) as client:
        found = read_prefixes(client)
    if as_json_:
        say_document([asdict(one) | {"is_own": own is not None and one.group == own} for one in found])
    elif not found:
        say("this Redis database has no keys")
    else:
        say(prefix_table(found, own))


@redis_app.command()
def clean(
    prefix: Annotated[
        str,
        typer.Argument(metavar="PREFIX", help="A prefix from `sluice redis ls`, such as sluice-1a2b3c4d."),
    ],
    reason: Reason,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json_: AsJson = False,
) -> None:
    """Delete all keys of one prefix in this Redis database, left by a former installation.

    If that installation still runs, it loses no data: its bridges publish again
    the events that are not applied. Refused for this installation while its
    processes run.
    """
    with connected("sluice redis") as session:
        settings = read_settings()
        own = check_installation(session, name=settings.name, share=settings.share).installation
        group = require_cleanable(prefix, own, read_living(session))
        with open_redis(read_addresses(read_settings()).redis_url) as client:
            found = left = read_prefix(client, group)
            gone = 0
            if found.keys and not dry_run:
                require_confirmation(f"{_described(found)} will be deleted.", yes=yes)
                with session.transaction():
                    subject = (group, as_json(asdict(found)))
                    insert_audits(session, decide("redis clean", reason), [subject])
                gone, left = delete_prefix(client, group, deleted=lambda keys: _report(keys, found.keys))
    if as_json_:
        say_document({"dry_run": dry_run, "found": asdict(found), "deleted": gone, "keys_left": left.keys})
    elif dry_run or not found.keys:
        say(f"{_described(found)} would be deleted")
    else:
        say(f"{group}: {counted(gone, 'key')} deleted, {left.keys} left")


def prefix_table(found: Iterable[PrefixUse], own: str | None) -> Table:
    """Returns a row per prefix: keys, bytes, time since the last use, and a mark for this installation."""
    return table_of(
        ("prefix", "keys", "bytes", "last use", ""),
        (
            (
                one.group or "without a prefix",
                one.keys,
                one.bytes,
                None if one.idle_seconds is None else say_age(one.idle_seconds),
                "this installation" if own is not None and one.group == own else "",
            )
            for one in found
        ),
    )


def _described(use: PrefixUse) -> str:
    used = "" if use.idle_seconds is None else f", last used {say_age(use.idle_seconds)} ago"
    return f"{use.group}: {counted(use.keys, 'key')}, {counted(use.bytes, 'byte')}{used}"


def _report(gone: int, total: int) -> None:
    # Not on stdout, which programs may parse as JSON.
    say(f"{gone} of {counted(total, 'key')} deleted", err=True)
