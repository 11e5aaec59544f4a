"""Which pools are refused for which queues, whatever they are called by."""

from typing import Any

import pytest
from celery.concurrency import prefork, solo, thread

from sluice.worker.pools import pool_names, pool_refusal

MODULE = "tests.unit.worker.test_pools"


class OwnThreads(thread.TaskPool):  # type: ignore[misc]
    """A user's pool."""


class OwnProcesses(prefork.TaskPool):  # type: ignore[misc]
    """A user's pool, of processes."""


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
def test_a_pool_without_main_threads_serves_no_queue_of_handlers_or_calls(pool: Any) -> None:
    names = pool_names(pool)
    for queues in ANY:
        refusal = pool_refusal(names, queues)
        assert refusal is not None
        assert "-P prefork" in refusal
        assert [name for name in queues if name in refusal] == [
            name for name in queues if name not in ("relay", "maintenance")
        ]
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
def test_a_pool_of_processes_serves_every_queue_by_its_name(pool: Any) -> None:
    names = pool_names(pool)
    assert [pool_refusal(names, queues) for queues in ANY] == [None] * len(ANY)
    assert "-P solo" in (pool_refusal(names, None) or "")


@pytest.mark.parametrize("pool", ["solo", "celery.concurrency.solo:TaskPool", solo.TaskPool])
def test_the_pool_solo_serves_all(pool: Any) -> None:
    names = pool_names(pool)
    assert [pool_refusal(names, queues) for queues in (None, *ANY)] == [None] * (len(ANY) + 1)


@pytest.mark.parametrize("pool", ["nowhere:TaskPool", "nowhere.TaskPool", f"{MODULE}:Nothing"])
def test_a_pool_that_is_not_there_cannot_be_judged(pool: str) -> None:
    with pytest.raises((ImportError, AttributeError)):
        pool_names(pool)
