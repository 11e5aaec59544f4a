"""Reads the facts for both `sluice status` and `sluice doctor`: processes, waiting work, causes."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg2.errors import InvalidSchemaName, UndefinedColumn, UndefinedTable

from sluice.admin.connection import read_refusal
from sluice.admin.doctor.facts import (
    DeclaredFacts,
    GenerationFacts,
    LeavingFacts,
    PostgresFacts,
    RedisFacts,
    SharingFacts,
    WorkingFacts,
)
from sluice.db.admin.call_admin import count_open_calls
from sluice.db.admin.doctor_facts import read_narrowed_queues, read_server
from sluice.db.admin.letters import count_parked
from sluice.db.admin.open_issues import read_open_issues
from sluice.db.admin.retrying import read_retrying
from sluice.db.admin.server_facts import (
    read_beat_silence,
    read_horizons,
    read_replication,
)
from sluice.db.admin.waiting_facts import (
    read_due_calls,
    read_event_deaths,
    read_holding_calls,
    read_waiting_topics,
)
from sluice.db.connection import Session
from sluice.db.delivery.installation import read_installation
from sluice.db.delivery.leases import read_workers
from sluice.db.delivery.living_processes import measure_clock_offset, read_living
from sluice.db.delivery.switches import read_switch
from sluice.db.projections.generation_lag import read_lagging
from sluice.db.projections.generations import Generation, read_generations
from sluice.db.sending.calls import EFFECTS_PAUSED
from sluice.runtime.redis_client import build_redis
from sluice.runtime.redis_pool import open_client, require_no_cluster


def read_situation(session: Session, name: str, declared: DeclaredFacts) -> PostgresFacts:
    """Returns the facts in Postgres, except the facts that are compared with the declarations.
    `name` is SLUICE_NAME.
    """
    stored = read_installation(session)
    facts = PostgresFacts(
        read_server(session),
        None,
        {},
        None,
        installation=stored.installation if stored else None,
        refusal=read_refusal(session, name, declared.share),
        clock_offset=measure_clock_offset(session),
    )
    with suppress(UndefinedTable, UndefinedColumn, InvalidSchemaName):
        return _with_tables(session, facts, declared)
    return facts


def _with_tables(session: Session, facts: PostgresFacts, declared: DeclaredFacts) -> PostgresFacts:
    sharing = read_workers(session)
    return replace(
        facts,
        leaving=_leaving(session, declared),
        generations=read_generation_facts(session),
        sharing=SharingFacts(len(sharing.workers), frozenset(sharing.holders())),
        living=read_living(session),
        retrying=read_retrying(session),
        narrowed=read_narrowed_queues(session),
        working=WorkingFacts(
            read_beat_silence(session),
            read_replication(session),
            read_horizons(session),
            read_event_deaths(session),
        ),
    )


def read_generation_facts(session: Session) -> list[GenerationFacts]:
    """Returns all generations, and marks the generations that lag."""
    lagging = {(projection, number) for projection, number, _, _ in read_lagging(session)}
    return [
        _generation(one, (one.projection, one.generation) in lagging) for one in read_generations(session)
    ]


def _generation(one: Generation, lags: bool) -> GenerationFacts:
    idle = datetime.now(UTC) - max(one.created_at, one.live_at or one.created_at)
    return GenerationFacts(
        one.projection,
        one.generation,
        one.state,
        one.revision,
        one.failed_reason,
        idle / timedelta(days=1),
        one.stopped_at is not None,
        one.paused,
        lags,
        one.rate,
    )


def _leaving(session: Session, declared: DeclaredFacts) -> LeavingFacts:
    open_issues = read_open_issues(session)
    return LeavingFacts(
        refused_records=open_issues.refused_records,
        uncertain_calls=open_issues.uncertain_calls,
        failed_calls=open_issues.failed_calls,
        effects_paused=read_switch(session, EFFECTS_PAUSED),
        open_calls=count_open_calls(session),
        parked_entities=count_parked(session),
        conflicts=open_issues.conflicts,
        outgoing=read_waiting_topics(session),
        due_calls=read_due_calls(session, declared.effects, declared.holding),
        holding_calls=read_holding_calls(session, declared.holding),
    )


def read_redis_memory(url: str) -> RedisFacts:
    """Returns version, memory and eviction policy of Redis. Raises RedisError."""
    with open_client(url, decode_responses=True) as redis:
        require_no_cluster(redis)
        # Read by INFO, because a managed Redis refuses CONFIG.
        information: Any = redis.info()
    return RedisFacts(
        information["redis_version"],
        information["maxmemory_policy"],
        None,
        int(information["used_memory"]),
        int(information["maxmemory"]),
    )


def read_lengths(redis_url: str, prefix: str, queues: Sequence[str]) -> dict[str, int]:
    """Returns queue → messages that wait in its Redis list. Raises RedisError."""
    with build_redis(redis_url, prefix) as redis, redis.pipeline(transaction=False) as pipe:
        for queue in queues:
            pipe.llen(queue)
        return dict(zip(queues, pipe.execute(), strict=True))
