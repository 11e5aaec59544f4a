"""Two beats on one Postgres: only one schedules. Without Postgres, no beat schedules, and no beat exits."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
import structlog

from sluice.db.connection import Session
from sluice.db.delivery.installation import create_installation
from sluice.runtime.celery_options import (
    EXPIRE_CLAIMS_TASK,
    MAINTENANCE_QUEUE,
    RELAY_QUEUE,
    RELAY_TASK,
    make_celery,
)
from sluice.runtime.message_frame import HEAD_BYTES
from sluice.runtime.redis_client import build_redis
from sluice.runtime.redis_item import Item, read_item, write_item
from sluice.runtime.settings import read_settings
from sluice.tasks.installation.joining import wait_for_installation
from sluice.tasks.task_messages import READERS
from sluice.tasks.task_sender import MAX_LISTED, TaskSender
from sluice.worker.beat import MAX_INTERVAL_SECONDS, SluiceScheduler
from sluice.worker.schedule import SCHEDULE
from tests.waiting import wait_until

ALL = sorted(one.task for one in SCHEDULE)
LONGEST_SECONDS = max(one.seconds for one in SCHEDULE)

MakeBeat = Callable[..., SluiceScheduler]


class Clock:
    """A monotonic clock that a test advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def wait(beat: SluiceScheduler, seconds: float) -> SluiceScheduler:
    """Advances the clock of a beat."""
    assert isinstance(beat._clock, Clock)
    beat._clock.now += seconds
    return beat


@pytest.fixture
def make_beat(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[MakeBeat]:
    """Yields a function that creates beats of one installation."""
    made: list[SluiceScheduler] = []

    with closing(Session(database_url, application_name="test")) as session:
        create_installation(session, "sluice")

    def make(database_url: str = database_url) -> SluiceScheduler:
        settings = read_settings(
            {
                "SLUICE_DATABASE_URL": database_url,
                "SLUICE_REDIS_URL": redis_url,
                "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "nowhere",
            }
        )
        app = make_celery(settings, lambda: wait_for_installation(settings))
        app.conf.sluice_health_file = str(tmp_path / "alive")
        beat = SluiceScheduler(app, clock=Clock())
        made.append(beat)
        return beat

    with structlog.testing.capture_logs():
        yield make
    for beat in made:
        taken(beat)
        beat.close()


def due(beat: SluiceScheduler) -> SluiceScheduler:
    """Advances the clock of a beat until all its tasks are due."""
    return wait(beat, LONGEST_SECONDS)


def turns(beat: SluiceScheduler) -> list[str]:
    """Runs one turn of the loop. Takes all messages from the queues and returns their tasks."""
    assert 0 < beat.tick() <= MAX_INTERVAL_SECONDS
    return taken(beat)


def taken(beat: SluiceScheduler) -> list[str]:
    """Takes all messages from the queues, checks their signatures and returns their tasks."""
    if beat._membership is None:
        return []
    installation, ring, _ = beat._membership
    found = []
    with build_redis(
        beat.app.sluice_settings.redis_url.get_secret_value(), installation.redis_prefix
    ) as redis:
        for name in (RELAY_QUEUE, MAINTENANCE_QUEUE):
            while item := cast("bytes | None", redis.rpop(name)):
                read = read_item(item)
                assert isinstance(read, Item)
                frame = ring.open(read.frame)
                assert frame is not None
                call = READERS[frame.version](frame.content)
                found.append(call.task)
                assert (name == RELAY_QUEUE) == (call.task == RELAY_TASK)
    return sorted(found)


def test_each_due_task_is_published_to_its_queue_one_time(make_beat: MakeBeat, tmp_path: Path) -> None:
    beat = make_beat()
    assert turns(due(beat)) == ALL
    assert EXPIRE_CLAIMS_TASK in ALL
    assert 0 < beat.tick() <= MAX_INTERVAL_SECONDS
    assert turns(beat) == []
    assert (tmp_path / "alive").exists()


def test_the_second_beat_leads_after_the_first_beat_ends(make_beat: MakeBeat) -> None:
    first, second = make_beat(), make_beat()
    for _ in range(3):
        assert turns(due(first)) == ALL
        assert second.tick() == MAX_INTERVAL_SECONDS
        assert turns(due(second)) == []
    first.close()
    # The server detects the end of the session after some time.
    wait_until(lambda: turns(due(second)) == ALL, timeout_seconds=5, what="the second beat leads")
    assert turns(due(first)) == []
    assert turns(due(second)) == ALL


def test_a_leader_that_lost_its_connection_schedules_nothing_until_it_leads_again(
    make_beat: MakeBeat, database_url: str
) -> None:
    beat = make_beat()
    assert turns(due(beat)) == ALL
    operator = Session(database_url, application_name="test")
    operator.command(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'sluice beat' AND datname = current_database()"
    )
    operator.close()
    assert beat.tick() == MAX_INTERVAL_SECONDS
    assert taken(beat) == []
    wait_until(lambda: turns(due(beat)) == ALL, timeout_seconds=5, what="the beat leads again")


def test_without_postgres_beat_schedules_nothing_and_raises_nothing(
    make_beat: MakeBeat, tmp_path: Path
) -> None:
    beat = make_beat(database_url="postgresql+psycopg2://nobody@127.0.0.1:1/nothing")
    for _ in range(3):
        assert due(beat).tick() == MAX_INTERVAL_SECONDS
    assert taken(beat) == []
    assert (tmp_path / "alive").exists(), "a beat without Postgres is healthy"


def test_two_beats_that_ignore_the_lock_both_schedule(
    make_beat: MakeBeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice.worker.beat.try_lead", lambda _: True)
    first, second = make_beat(), make_beat()
    assert turns(due(first)) == turns(due(second)) == ALL


def test_a_task_whose_message_waits_is_not_published_again_but_stays_due(make_beat: MakeBeat) -> None:
    beat = make_beat()
    for _ in range(30):
        due(beat).tick()
    assert taken(beat) == ALL, "one message per task"
    assert turns(wait(beat, MAX_INTERVAL_SECONDS)) == ALL, (
        "all tasks, even the hourly task, are published within one second"
    )
    assert turns(beat) == []


def test_a_waiting_message_holds_back_no_other_task(make_beat: MakeBeat) -> None:
    beat = make_beat()
    due(beat).tick()
    membership = beat._membership
    assert membership is not None
    url = beat.app.sluice_settings.redis_url.get_secret_value()
    with build_redis(url, membership.installation.redis_prefix) as redis:
        redis.delete(RELAY_QUEUE)
        wait(beat, MAX_INTERVAL_SECONDS).tick()
        assert redis.llen(RELAY_QUEUE) == 1


def test_messages_without_a_valid_signature_hold_back_no_task(make_beat: MakeBeat) -> None:
    beat = make_beat()
    assert turns(beat) == ALL
    membership = beat._membership
    assert membership is not None
    url = beat.app.sluice_settings.redis_url.get_secret_value()
    with build_redis(url, membership.installation.redis_prefix) as redis:
        redis.lpush(RELAY_QUEUE, b"nonsense", write_item(RELAY_TASK, bytes(HEAD_BYTES)))
        due(beat).tick()
        assert redis.llen(RELAY_QUEUE) == 3
        redis.lpush(RELAY_QUEUE, *[b"nonsense"] * MAX_LISTED)
        before = redis.llen(RELAY_QUEUE)
        due(beat).tick()
        assert redis.llen(RELAY_QUEUE) == before, "beat adds no message to a full list"
        redis.delete(RELAY_QUEUE)


def test_without_redis_beat_continues_and_logs_one_message(make_beat: MakeBeat) -> None:
    beat = make_beat()
    assert turns(beat) == ALL
    membership = beat._membership
    assert membership is not None
    working, beat._made_sender = (
        beat._made_sender,
        TaskSender(build_redis("redis://127.0.0.1:1/0", ""), membership.ring),
    )
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            assert due(beat).tick() == MAX_INTERVAL_SECONDS
    assert [line["event"] for line in lines].count("nothing is scheduled: Redis unavailable") == 1
    beat._made_sender = working
    assert turns(beat) == ALL, "tasks that were not published are still due"


@pytest.mark.parametrize("hours", [-1, 1])
def test_setting_the_system_clock_does_not_change_the_schedule(
    make_beat: MakeBeat, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    beat = make_beat()
    assert turns(beat) == ALL
    real = time.time
    monkeypatch.setattr("time.time", lambda: real() + hours * 3_600)
    assert turns(beat) == []
    assert turns(wait(beat, 1.0)) == sorted(one.task for one in SCHEDULE if one.seconds == 1.0)
