"""The thread for tasks beside the loop of a worker. No task is lost, and no task waits twice in its queue."""

import threading
from collections.abc import Callable, Iterator

import pytest
from structlog.testing import capture_logs

from sluice.worker.task_thread import STUCK_SECONDS, TaskThread, end_threads
from tests.waiting import wait_until


class Bench:
    """A thread whose tasks wait until the test lets them continue."""

    def __init__(self) -> None:
        self.now = 0.0
        self.thread = TaskThread("test", clock=lambda: self.now)
        self.began: list[str] = []
        self.may_end = threading.Semaphore(0)

    def submit(self, task: str) -> None:
        def run() -> None:
            self.began.append(task)
            self.may_end.acquire()

        self.thread.submit(task, run)

    def until_began(self, *tasks: str) -> None:
        wait_until(lambda: len(self.began) >= len(tasks), timeout_seconds=5, what=f"{tasks} began")
        assert self.began == list(tasks)


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.may_end.release(100)
    end_threads([made.thread])


def test_a_long_task_does_not_delay_another_thread(bench: Bench) -> None:
    bench.submit("relay")
    bench.until_began("relay")
    done = threading.Event()
    other = TaskThread("other")
    other.submit("maintenance", done.set)
    wait_until(done.is_set, timeout_seconds=5, what="the other task runs")
    end_threads([other])


def test_a_task_that_is_submitted_several_times_waits_only_once(bench: Bench) -> None:
    bench.submit("a")
    bench.until_began("a")
    for _ in range(3):
        bench.submit("a")
        bench.submit("b")
    bench.may_end.release(3)
    bench.until_began("a", "a", "b")


@pytest.mark.parametrize("error", [ValueError("broken"), SystemExit("refused")])
def test_a_failed_task_is_logged_and_other_tasks_run(bench: Bench, error: BaseException) -> None:
    def fail() -> None:
        raise error

    with capture_logs() as lines:
        bench.thread.submit("bad", fail)
        bench.submit("good")
        bench.until_began("good")
    assert [(line["event"], line["task"]) for line in lines] == [("task failed", "bad")]


def test_the_thread_is_stuck_only_while_one_run_takes_too_long(bench: Bench) -> None:
    assert not bench.thread.is_stuck()
    bench.submit("a")
    bench.until_began("a")
    bench.now += STUCK_SECONDS - 1
    assert not bench.thread.is_stuck()
    bench.now += 1
    assert bench.thread.is_stuck()
    bench.submit("b")
    bench.may_end.release()
    bench.until_began("a", "b")
    assert not bench.thread.is_stuck()


@pytest.mark.parametrize("submits", [lambda _: None, lambda bench: bench.submit("a")])
def test_an_ended_thread_starts_no_task(bench: Bench, submits: Callable[[Bench], None]) -> None:
    submits(bench)
    bench.may_end.release()
    wait_until(lambda: not bench.thread._waiting, timeout_seconds=5, what="the task has begun")
    end_threads([bench.thread])
    before = list(bench.began)
    bench.submit("b")
    end_threads([bench.thread])
    assert bench.began == before
