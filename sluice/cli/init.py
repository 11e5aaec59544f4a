"""`sluice init`: the command around `admin/init.py`."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from sluice.admin.connection import read_environment
from sluice.admin.decisions import OperationRefused, decide
from sluice.admin.doctor.findings import Severity
from sluice.admin.init import DEFAULT_PARTITIONS, Initialised, initialise, missing_sql
from sluice.admin.init_original import QUESTION, make_original
from sluice.admin.installation import CHANGES, Change, Changed
from sluice.cli.confirmation import Yes, require_confirmation
from sluice.cli.output import say, say_document
from sluice.cli.printing import AsJson, finding_document, finding_lines
from sluice.db.connection import Session
from sluice.runtime.settings import Settings
from sluice.runtime.terminal_text import counted

QUESTIONS = {
    Change.NEW_INSTALLATION: "This database gets a new id, a new key and a new consumer group. All calls are"
    " paused; waiting outgoing events are not sent, and unfinished calls are not made, until you release"
    " or drop them.",
    Change.MOVED: "This database replaces its original. Do not use the original again: both databases"
    " have the same id and key.",
    Change.NEW_KEY: "All processes will sign their messages with a new key.",
}


def init(
    partitions: Annotated[
        int, typer.Option(min=1, help="Partitions of new topics; can be raised later, never lowered.")
    ] = DEFAULT_PARTITIONS,
    replication_factor: Annotated[
        int,
        typer.Option(
            min=-1,
            help="Replicas of new topics: how many brokers keep a copy. -1: the default of the brokers.",
        ),
    ] = 1,
    no_topics: Annotated[
        bool,
        typer.Option("--no-topics", help="Create no topic, because another tool creates them."),
    ] = False,
    new_installation: Annotated[
        bool,
        typer.Option(
            "--new-installation",
            help="This database is a copy and the original still exists: make this copy a separate"
            " installation, with the name SLUICE_NAME.",
        ),
    ] = False,
    moved: Annotated[
        bool,
        typer.Option(
            "--moved",
            help="This database is a copy and the original is gone (dump and restore, pg_upgrade): continue"
            " the installation here.",
        ),
    ] = False,
    new_key: Annotated[
        bool,
        typer.Option(
            "--new-key",
            help="Create a new key for signing messages. Running processes use it within seconds. The old key"
            " is removed when every running process has read the new one.",
        ),
    ] = False,
    reason: Annotated[
        str,
        typer.Option("--reason", help="Reason of the change of the installation; stored in sluice.audit."),
    ] = "not given",
    original: Annotated[
        bool,
        typer.Option(
            "--original",
            help="Only declare that this database is the original. Use this option if a physical copy"
            " with the same id was started while this database was down. Then start the processes"
            " of this database: the"
            " bridges of the copy stop.",
        ),
    ] = False,
    sql: Annotated[
        bool,
        typer.Option("--sql", help="Print the statements that create what Postgres lacks; change nothing."),
    ] = False,
    no_ddl: Annotated[
        bool,
        typer.Option(
            "--no-ddl",
            help="Create no table, after a DBA has run the output of --sql; write rows and create topics.",
        ),
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Create what is missing: migrations, your tables, topics, entity types and their queues.

    Changes nothing that exists. Run it after every deployment. Idempotent. Exit
    code 1 if a table differs from the code, and Postgres would therefore refuse
    or change values; the command still creates everything else.

    The database belongs to one installation: a name (SLUICE_NAME) and an id.
    A copied database is refused until you pass --new-installation or --moved.

    If only a DBA may create tables, give the output of --sql to the DBA, and
    run --no-ddl afterwards. The output has no key.
    """
    change = _chosen(
        {
            Change.NEW_INSTALLATION: new_installation,
            Change.MOVED: moved,
            Change.NEW_KEY: new_key,
            Change.ORIGINAL: original,
        }
    )
    if replication_factor == 0:
        raise typer.BadParameter("--replication-factor must be -1 or at least 1")
    if sql and (no_ddl or change is not None):
        raise OperationRefused("pass --sql alone; it changes nothing")
    settings, registry, urls = read_environment()
    if sql:
        say(*(missing_sql(urls.database_url, registry) or "-- The database lacks nothing.").splitlines())
        return
    if change is Change.ORIGINAL:
        _declare_original(settings, reason, yes=yes, as_json=as_json)
        return
    if change is not None:
        require_confirmation(QUESTIONS[change], yes=yes)

    def make_change(session: Session, name: str) -> Changed:
        assert change is not None
        changed = CHANGES[change](session, name, decide(f"init {change.value}", reason))
        # Printed at once, because the next steps need Kafka and may fail. With --json on stderr.
        say(*change_lines(changed), err=as_json)
        return changed

    made = initialise(
        urls,
        registry,
        name=settings.name,
        share=settings.share,
        partitions=partitions,
        replication_factor=replication_factor,
        with_topics=not no_topics,
        may_run_ddl=not no_ddl,
        change=None if change is None else make_change,
    )
    declared = {entity.name: entity.shards for entity in registry.entities.values()}
    if as_json:
        findings = [finding_document(finding) for finding in made.findings]
        say_document(asdict(made) | {"declared_shards": declared, "findings": findings})
    else:
        say(*describe(made, declared), *(line for one in made.findings for line in finding_lines(one)))
    if any(finding.severity is Severity.ERROR for finding in made.findings):
        raise typer.Exit(1)


def _chosen(given: Mapping[Change, bool]) -> Change | None:
    chosen = [change for change, is_given in given.items() if is_given]
    if len(chosen) > 1:
        raise OperationRefused(f"pass only one of {', '.join(f'--{change.value}' for change in chosen)}")
    return chosen[0] if chosen else None


def change_lines(changed: Changed) -> list[str]:
    """Returns the result of a change of the installation, and the next steps of the operator."""
    if changed.change is Change.MOVED:
        return [f"{changed.after} is in this database {'from now on' if changed.changed else 'already'}"]
    if changed.change is Change.NEW_KEY:
        return [f"{changed.after}: key {changed.key_number} is made; processes use it within 10 s"]
    return [
        f"this database is a new installation: {changed.after} (before: {changed.before})",
        'all calls are paused; run `sluice effects resume --reason "…"` when the calls may be made',
        f"outgoing events held: {changed.held_events}; `sluice outbox ls` lists them, `sluice outbox retry"
        ' --all --reason "…"` releases them, `sluice outbox drop --all --reason "…"` drops them',
        f"calls held: {changed.held_calls}; `sluice effects ls --state uncertain` lists them, `sluice effects"
        ' retry --all --state uncertain --reason "…"` releases them, `sluice effects settle --all --as failed'
        ' --reason "…"` drops them',
    ]


def _declare_original(settings: Settings, reason: str, *, yes: bool, as_json: bool) -> None:
    require_confirmation(QUESTION, yes=yes)
    raised = make_original(settings, decide(f"init {Change.ORIGINAL.value}", reason))
    if as_json:
        say_document(raised._asdict())
        return
    say(f"rank of this database: {raised.after}, before {raised.before}")
    say(
        f"bridges of other databases: {raised.foreign_writers}; they stop within a minute after the"
        " start of a bridge of this database. Stop their workers and beats yourself."
    )


def _queues(entity: str, shards: int) -> str:
    return f"{entity} ({counted(shards, 'queue')})"


def _projection_line(name: str, *, has_events: bool) -> str:
    if not has_events:
        return f"projection made: {name}"
    return (
        f"projection made: {name}, empty; it receives events from now on, `sluice rebuild start {name}"
        ' --reason "…"` adds the earlier ones'
    )


def describe(made: Initialised, declared: Mapping[str, int]) -> list[str]:
    """Returns lines with the created objects, and with each declared shard count that differs from
    the count in Postgres.
    """
    return [
        f"installation: {made.installation}",
        f"tables made: {', '.join(made.tables) or 'none were missing'}",
        f"topics made: {', '.join(made.topics) or 'none were missing'}",
        *(_projection_line(name, has_events=made.has_events) for name in made.projections),
        f"entity types: {', '.join(_queues(name, shards) for name, shards in made.shards.items())}",
        *(
            f"{name}: the code declares {counted(declared[name], 'shard')}, Postgres has {shards}; the number"
            " in Postgres is used"
            for name, shards in made.shards.items()
            if declared[name] != shards
        ),
        *made.dedup,
    ]
