"""The Celery pools that are refused for a queue, under every name of the pool."""

from typing import Any

import pytest
from celery.concurrency import prefork, solo, thread

from sluice.worker.pools import pool_names, pool_refusal, queue_refusal, right_command

MODULE = "tests.unit.worker.test_pools"


class OwnThreads(thread.TaskPool):  # type: ignore[misc]
    """A user's own pool of threads."""


class OwnProcesses(prefork.TaskPool):  # type: ignore[misc]
    """A user's own pool of processes."""


ANY = (["effects"], ["rebuild"], ["order.0"], ["relay", "effects"], ["maintenance", "order.0"])


@pytest.mark.parametrize(
    "pool",
    [
        "threads",
        "gevent",
        "eventlet",
        "celery.concurrency.thread:TaskPool",
        "celery.concurrency.thread.TaskPool",
        "celery.concurrency.gevent:TaskPool",
        f"{MODULE}:OwnThreads",
        f"{MODULE}.OwnThreads",
        thread.TaskPool,
        OwnThreads,
    ],
)
def test_a_pool_that_runs_tasks_outside_main_threads_is_refused_for_handlers_and_calls(pool: Any) -> None:
    names = pool_names(pool)
    for queues in ANY:
        refusal = pool_refusal(names, queues)
        assert refusal is not None
        assert "-P prefork" in refusal
        needing = sorted(name for name in queues if name not in ("relay", "maintenance"))
        assert f"the queues {', '.join(needing)} need them" in refusal
    assert "-P solo" in (pool_refusal(names, None) or "")
    assert pool_refusal(names, ["relay", "maintenance"]) is None


@pytest.mark.parametrize(
    "pool",
    [
        "prefork",
        "processes",
        "celery.concurrency.prefork.TaskPool",
        prefork.TaskPool,
        f"{MODULE}:OwnProcesses",
    ],
)
def test_a_pool_of_processes_is_accepted_for_every_named_queue(pool: Any) -> None:
    names = pool_names(pool)
    assert [pool_refusal(names, queues) for queues in ANY] == [None] * len(ANY)
    assert "-P solo" in (pool_refusal(names, None) or "")


@pytest.mark.parametrize("pool", ["solo", "celery.concurrency.solo:TaskPool", solo.TaskPool])
def test_the_pool_solo_is_accepted_for_all_queues(pool: Any) -> None:
    names = pool_names(pool)
    assert [pool_refusal(names, queues) for queues in (None, *ANY)] == [None] * (len(ANY) + 1)


@pytest.mark.parametrize("pool", ["nowhere:TaskPool", "nowhere.TaskPool", f"{MODULE}:Nothing"])
def test_a_missing_pool_raises_an_error(pool: str) -> None:
    with pytest.raises((ImportError, AttributeError)):
        pool_names(pool)


@pytest.mark.parametrize(
    ("queues", "command"),
    [
        (None, "sluice worker"),
        (["relay"], "sluice relay"),
        (["maintenance", "relay"], "sluice relay"),
        (["effects"], "sluice effects-worker"),
        (["rebuild"], "sluice rebuild-worker"),
        (["order.1", "order.0"], "sluice worker --queues order.0,order.1"),
        (["relay", "order.0"], "sluice worker --queues order.0,relay"),
    ],
)
def test_a_refusal_names_the_command_for_the_queues(queues: list[str] | None, command: str) -> None:
    assert right_command(queues) == command
    names = pool_names("threads")
    refusal = pool_refusal(names, queues)
    assert (refusal is None) == (queues is not None and {"relay", "maintenance"} >= set(queues))
    assert refusal is None or f"run `{command}`, or pass" in refusal


def test_an_unknown_queue_is_refused_with_the_list_of_known_queues() -> None:
    known = ["order.0", "order.1", "relay", "effects"]
    assert queue_refusal([], known) is None
    assert queue_refusal(["order.1", "relay"], known) is None
    assert queue_refusal(["oder.1", "effects", "order.7"], known) == (
        "there is no queue oder.1, order.7; the queues are effects, order.0, order.1, relay; run"
        " `sluice effects-worker`, and first `sluice init` if your handlers declare a new entity type or more"
        " shards"
    )
    assert "run `sluice worker`, " in (queue_refusal(["oder.1"], known) or "")
