"""The rules of `sluice doctor` about Redis and the workers that apply events. Pure."""

from collections.abc import Iterator

from sluice.admin.doctor.facts import Facts, RedisFacts, SharingFacts
from sluice.admin.doctor.findings import Finding, error, warning
from sluice.admin.doctor.rules_retrying import stuck_problems
from sluice.db.admin.doctor_facts import Registered
from sluice.runtime.terminal_text import counted
from sluice.tasks.events.routing import queue_name

MIB = 1024 * 1024
# Share of maxmemory. Redis refuses commands a little below the limit, because a new message needs room.
REDIS_NEARLY_FULL, REDIS_FULL = 0.8, 0.95
OLDEST_REDIS = (6, 2)  # the oldest version that the tests run on


def used_queues(registered: Registered) -> frozenset[str]:
    """Returns the queues that can get records.

    A re-routing to fewer shards keeps the rows of former queues for their counters.
    """
    return frozenset(
        queue_name(entity, shard) for entity, shards in registered.shards.items() for shard in range(shards)
    )


def redis_problems(redis: RedisFacts) -> Iterator[Finding]:
    """Yields findings about a Redis that is full, evicts keys or is too old."""
    numbers = tuple(int(part) for part in redis.version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST_REDIS:
        yield error(f"Redis {redis.version} is too old.", "Use 6.2 or newer.")
    if redis.eviction_policy != "noeviction":
        yield error(
            f"Redis evicts keys: its maxmemory-policy is {redis.eviction_policy}.",
            "Run CONFIG SET maxmemory-policy noeviction, and also change the configuration file of Redis.",
        )
    memory = f"{redis.used_bytes // MIB} of {redis.max_bytes // MIB} MiB"
    advice = (
        "Find out with `sluice redis ls` what fills Redis; free memory or raise maxmemory. While Redis"
        " is full, bridge, relay and beat wait, and workers apply only the messages in their queues."
    )
    if _is_full(redis):
        yield error(f"Redis is full: {memory}.", advice)
    elif redis.max_bytes and redis.used_bytes >= REDIS_NEARLY_FULL * redis.max_bytes:
        yield warning(f"Redis is nearly full: {memory}.", advice)


def _is_full(redis: RedisFacts) -> bool:
    return bool(redis.max_bytes) and redis.used_bytes >= REDIS_FULL * redis.max_bytes


def worker_problems(facts: Facts) -> Iterator[Finding]:
    """Yields queues that no worker serves, or whose batches are not committed."""
    registered = facts.postgres.registered if facts.postgres else None
    if facts.postgres is None or facts.redis is None or registered is None:
        return
    if facts.postgres.refusal is not None or _is_full(facts.redis):
        return  # No worker can start, or no worker can answer.
    used = registered.queues.keys() & used_queues(registered)
    served = facts.postgres.served_queues | (facts.redis.consumed or frozenset())
    lonely = sorted(used - served)
    if lonely and not served & used and facts.redis.consumed is None:
        yield warning("No worker answered.", "Start a worker without --queues: it serves all free queues.")
        return
    yield from stuck_problems([one for one in facts.stuck if one.queue not in lonely])
    if lonely:
        yield warning(
            f"No worker serves {', '.join(lonely)}.",
            "Start a worker without --queues: it serves all free queues.",
        )


def idle_workers(registered: Registered, sharing: SharingFacts) -> Iterator[Finding]:
    """Yields a finding if there are more workers than queues."""
    queues = len(registered.queues.keys() & used_queues(registered))
    if sharing.workers > max(1, queues):
        yield warning(
            f"{sharing.workers} workers share {counted(queues, 'queue')}: some of them are idle.",
            "Stop some workers, or give an entity type more queues by `sluice reshard ENTITY N --reason"
            ' "…"`.',
        )
