"""The least rights that the role of each process needs in Postgres, as SQL. Pure."""

from collections.abc import Iterator, Mapping
from enum import Enum

from sluice.db.identifiers import USERS_SCHEMA, quoted
from sluice.db.schema import VERSION_TABLE, metadata

READ, ADD, CHANGE = ("SELECT",), ("INSERT",), ("UPDATE",)
WRITE = ("INSERT", "UPDATE", "DELETE")

KEYS = frozenset({"installation_keys", "claim_key", "erasure_key"})
"""The tables with secrets. A role that may read the first one may sign messages. A role that may read the
last one can check if a key that it guesses was erased.
"""
TABLES = tuple(sorted(table.name for table in metadata.tables.values()))


class Role(Enum):
    """The purposes of a role."""

    BRIDGE = "bridge"
    WORKER = "worker"
    RELAY = "relay"
    EFFECTS = "effects"
    REBUILD = "rebuild"
    BEAT = "beat"
    OPERATOR = "operator"
    READER = "reader"
    EMIT = "emit"


_Rights = Mapping[str, tuple[str, ...]]

# Every process of Sluice reads the keys, reports itself, and deletes keys that all processes have replaced.
_PROCESS: _Rights = {"installation_keys": ("SELECT", "DELETE"), "claim_key": READ, "processes": WRITE}
_OUTGOING: _Rights = {"outbox_events": ADD, "relay_progress": ADD}
_DEATHS: _Rights = {"handler_deaths": WRITE, "handler_notes": WRITE}
_GENERATIONS: _Rights = dict.fromkeys(
    (
        *("generations", "generation_lanes", "generation_offsets", "generation_windows"),
        *("generation_paces", "generation_spans", "generation_identities"),
        *(
            "generation_failures",
            "generation_deaths",
            "generation_reports",
            "projection_letters",
            "tombstones",
        ),
    ),
    WRITE,
)
_WRITES: Mapping[Role, _Rights] = {
    Role.BRIDGE: {
        **_PROCESS,
        **dict.fromkeys(("claims", "witnessed_claims", "partition_reads", "partition_watermarks"), WRITE),
        **dict.fromkeys(("entities", "queues", "topics"), ("INSERT", "UPDATE")),
        "dedup_starts": WRITE,
    },
    Role.WORKER: {
        **_PROCESS,
        **_OUTGOING,
        **_DEATHS,
        **_GENERATIONS,
        "erasure_key": READ,
        **dict.fromkeys(("workers", "lane_offsets", "lane_progress", "failure_windows"), WRITE),
        **dict.fromkeys(("queue_failures", "parked_entities", "retries", "undeclared"), WRITE),
        "processed_events": WRITE,
        **dict.fromkeys(("dead_letters", "queues", "erasures", "entity_tables"), ("INSERT", "UPDATE")),
        **dict.fromkeys(("call_conflicts", "executed_side_effects", "audit"), ADD),
        "projections": CHANGE,
    },
    Role.RELAY: {
        **_PROCESS,
        **dict.fromkeys(("outbox_events", "outbox_refusals", "relay_progress", "undeclared"), WRITE),
        **dict.fromkeys(("processed_events", "dead_letters", "projection_letters"), ("DELETE",)),
        "executed_side_effects": ("UPDATE", "DELETE"),
        "generations": CHANGE,
    },
    Role.EFFECTS: {**_PROCESS, "executed_side_effects": CHANGE},
    Role.REBUILD: {
        **_PROCESS,
        **_DEATHS,
        **_GENERATIONS,
        "erasure_key": READ,
        **dict.fromkeys(("queues", "projections", "dead_letters"), CHANGE),
        **dict.fromkeys(("lane_offsets", "audit"), ADD),
    },
    Role.BEAT: _PROCESS,
    Role.OPERATOR: dict.fromkeys(TABLES, (*READ, *WRITE)),
    Role.READER: {},
    Role.EMIT: {"outbox_events": ADD, "relay_progress": (*READ, *ADD)},
}
_SEQUENCES: Mapping[Role, tuple[str, ...]] = {
    Role.WORKER: ("outbox_ids", "dead_letters_id_seq"),
    Role.REBUILD: ("dead_letters_id_seq",),
    Role.OPERATOR: ("outbox_ids", "dead_letters_id_seq"),
    Role.EMIT: ("outbox_ids",),
}
_USERS_TABLES: Mapping[Role, tuple[str, ...]] = {
    **dict.fromkeys((Role.WORKER, Role.REBUILD, Role.OPERATOR), (*READ, *WRITE)),
    Role.READER: READ,
}


def rights_of(role: Role) -> dict[str, tuple[str, ...]]:
    """Returns each table of Sluice on which the role has rights, with the rights in a fixed order."""
    reads = () if role is Role.EMIT else (name for name in (*TABLES, VERSION_TABLE) if name not in KEYS)
    rights = {name: {"SELECT"} for name in reads}
    for name, given in _WRITES[role].items():
        rights.setdefault(name, set()).update(given)
    return {name: tuple(one for one in (*READ, *WRITE) if one in given) for name, given in rights.items()}


def grant_lines(role: Role, name: str, schema: str) -> Iterator[str]:
    """Yields statements that give the rights to the role `name`. The owner of the tables runs them.

    `schema` is that of the installation.
    """
    grantee = quoted(name)
    yield "-- The owner of the tables runs this, after each `sluice init` of a new version."
    yield f"GRANT USAGE ON SCHEMA {schema} TO {grantee};"
    by_rights: dict[tuple[str, ...], list[str]] = {}
    for table, rights in sorted(rights_of(role).items()):
        by_rights.setdefault(rights, []).append(f"{schema}.{table}")
    for rights, tables in sorted(by_rights.items()):
        yield f"GRANT {', '.join(rights)} ON {', '.join(tables)} TO {grantee};"
    for sequence in _SEQUENCES.get(role, ()):
        yield f"GRANT USAGE ON SEQUENCE {schema}.{sequence} TO {grantee};"
    if role in _USERS_TABLES:
        rights_text = ", ".join(_USERS_TABLES[role])
        yield f"GRANT USAGE ON SCHEMA {USERS_SCHEMA} TO {grantee};"
        yield f"GRANT {rights_text} ON ALL TABLES IN SCHEMA {USERS_SCHEMA} TO {grantee};"
        yield from _default_privileges(rights_text, name, schema)
    if role is Role.OPERATOR:
        yield "-- A rebuild creates and drops tables, so it needs the rights of their owner:"
        yield f"-- GRANT <owner> TO {grantee};"
    if role is not Role.EMIT:
        yield from _statistics(grantee)


def _default_privileges(rights_text: str, name: str, schema: str) -> Iterator[str]:
    """Yields the statement for tables that the owner creates later. A superuser may run it, too."""
    yield "DO $sluice$ BEGIN EXECUTE format("
    yield "    'ALTER DEFAULT PRIVILEGES FOR ROLE %I'"
    yield f"    ' IN SCHEMA {USERS_SCHEMA} GRANT {rights_text} ON TABLES TO %I',"
    yield "    (SELECT pg_get_userbyid(relowner) FROM pg_class"
    yield f"     WHERE oid = '{schema}.installation'::regclass),"
    yield f"    {_literal(name)}); END $sluice$;"


def _statistics(grantee: str) -> Iterator[str]:
    """Yields the statement for a right that only a superuser, or a role with ADMIN OPTION, may grant."""
    yield "-- Without this right, reports cannot name the sessions that block Sluice."
    yield "DO $sluice$ BEGIN"
    yield f"    GRANT pg_read_all_stats TO {grantee};"
    yield "EXCEPTION WHEN insufficient_privilege THEN"
    yield "    RAISE WARNING 'pg_read_all_stats is not granted: a superuser must grant it';"
    yield "END $sluice$;"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
