"""The health of a process: its file, /healthz and /readyz."""

import os
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from sluice.runtime.health import (
    STALE_AFTER_SECONDS,
    ProcessHealth,
    is_healthy,
    loop_complaint,
    touch_health,
)
from sluice.runtime.server_answers import ASK_EVERY_SECONDS

NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("age", "healthy"),
    [
        (0.0, True),
        (STALE_AFTER_SECONDS - 1, True),
        (STALE_AFTER_SECONDS, False),
        # The clock was set back, so the loop may have ended after the file was written.
        (-3_600.0, False),
        (-1.0, True),
    ],
)
def test_a_process_is_healthy_while_its_file_is_fresh(tmp_path: Path, age: float, healthy: bool) -> None:
    health_file = tmp_path / "alive"
    touch_health(str(health_file))
    os.utime(health_file, (NOW - age, NOW - age))
    assert is_healthy(health_file, NOW) is healthy


def test_a_process_without_a_file_is_not_healthy(tmp_path: Path) -> None:
    assert not is_healthy(tmp_path / "alive", NOW)


@pytest.mark.parametrize(
    ("turned_ago", "busy_for", "complaint"),
    [
        (0.0, None, ""),
        (STALE_AFTER_SECONDS, None, "the loop has not turned for 30 s"),
        (STALE_AFTER_SECONDS * 2, 59.0, ""),
        (0.0, 60.0, "a batch has run for more than 60 s"),
    ],
    ids=["it turned", "it hangs", "a batch runs", "a batch hangs"],
)
def test_a_process_is_live_while_its_loop_turns_or_a_batch_is_within_its_limit(
    turned_ago: float, busy_for: float | None, complaint: str
) -> None:
    busy_since = None if busy_for is None else NOW - busy_for
    found = loop_complaint(now=NOW, turned_at=NOW - turned_ago, busy_since=busy_since, busy_limit_seconds=60)
    assert found == complaint


class Clock:
    now = NOW

    def __call__(self) -> float:
        return self.now


def test_a_process_is_ready_if_it_has_joined_and_its_servers_answer() -> None:
    clock, asked, away = Clock(), Counter[str](), set[str]()
    health = ProcessHealth(clock)

    def probe(server: str) -> None:
        asked[server] += 1
        if server in away:
            raise ConnectionError("refused")

    health.servers.probes = {"Postgres": partial(probe, "Postgres"), "Redis": partial(probe, "Redis")}
    assert health.ready_complaint() == "the process has not joined its installation"
    assert not asked, "a process that has not joined asks no server"
    health.has_joined = True
    assert health.ready_complaint() == ""
    away.add("Redis")
    assert health.ready_complaint() == ""
    assert asked == Counter(Postgres=1, Redis=1), "an answer is used for some seconds"
    clock.now += ASK_EVERY_SECONDS
    assert health.ready_complaint() == "Redis does not answer"
    assert health.live_complaint() == ""
    away.clear()
    clock.now += ASK_EVERY_SECONDS
    assert health.ready_complaint() == ""
    clock.now += STALE_AFTER_SECONDS
    assert health.ready_complaint() == health.live_complaint() == "the loop has not turned for 30 s"
    health.note_turn()
    assert health.ready_complaint() == ""


def test_the_loop_counts_as_turned_when_a_batch_ends() -> None:
    clock = Clock()
    health = ProcessHealth(clock)
    health.busy_limit_seconds = 60
    with health.busy():
        clock.now += STALE_AFTER_SECONDS + 1
        assert health.live_complaint() == ""
    assert health.live_complaint() == ""
