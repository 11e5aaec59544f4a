"""Of two beats on one Postgres one schedules; without Postgres none does, and none ends."""

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
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def wait(beat: SluiceScheduler, seconds: float) -> SluiceScheduler:
    """Time passes for this beat."""
    assert isinstance(beat._clock, Clock)
    beat._clock.now += seconds
    return beat


@pytest.fixture
def make_beat(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[MakeBeat]:
    """Makes beats of one installation."""
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
    """Everything of this beat is due now."""
    return wait(beat, LONGEST_SECONDS)


def turns(beat: SluiceScheduler) -> list[str]:
    """One turn of its loop; the tasks that are on the queues then."""
    assert 0 < beat.tick() <= MAX_INTERVAL_SECONDS
    return taken(beat)


def taken(beat: SluiceScheduler) -> list[str]:
    """Takes all messages there are: their tasks, as they are signed."""
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


def test_what_is_due_goes_to_its_queue_once(make_beat: MakeBeat, tmp_path: Path) -> None:
    beat = make_beat()
    assert turns(due(beat)) == ALL
    assert EXPIRE_CLAIMS_TASK in ALL
    assert 0 < beat.tick() <= MAX_INTERVAL_SECONDS
    assert turns(beat) == []
    assert (tmp_path / "alive").exists()


def test_of_two_beats_one_leads_and_after_its_end_the_other(make_beat: MakeBeat) -> None:
    first, second = make_beat(), make_beat()
    for _ in range(3):
        assert turns(due(first)) == ALL
        assert second.tick() == MAX_INTERVAL_SECONDS
        assert turns(due(second)) == []
    first.close()
    # The server notices the end of a session by itself.
    wait_until(lambda: turns(due(second)) == ALL, timeout_seconds=5, what="the other one leads")
    assert turns(due(first)) == []
    assert turns(due(second)) == ALL


def test_a_leader_whose_connection_is_lost_schedules_nothing_and_may_lead_again(
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
    wait_until(lambda: turns(due(beat)) == ALL, timeout_seconds=5, what="it leads again")


def test_without_postgres_nothing_is_scheduled_and_nothing_raised(
    make_beat: MakeBeat, tmp_path: Path
) -> None:
    beat = make_beat(database_url="postgresql+psycopg2://nobody@127.0.0.1:1/nothing")
    for _ in range(3):
        assert due(beat).tick() == MAX_INTERVAL_SECONDS
    assert taken(beat) == []
    assert (tmp_path / "alive").exists(), "a beat without Postgres is healthy"


def test_beats_that_ask_nobody_would_fail_the_tests_above(
    make_beat: MakeBeat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sluice.worker.beat.try_lead", lambda _: True)
    first, second = make_beat(), make_beat()
    assert turns(due(first)) == turns(due(second)) == ALL


def test_a_task_whose_message_waits_is_not_published_again_but_stays_due(make_beat: MakeBeat) -> None:
    beat = make_beat()
    for _ in range(30):
        due(beat).tick()
    assert taken(beat) == ALL, "one message of each"
    assert turns(wait(beat, MAX_INTERVAL_SECONDS)) == ALL, "within a second, the hourly one, too"
    assert turns(beat) == []


def test_a_message_that_waits_holds_back_no_other_task(make_beat: MakeBeat) -> None:
    beat = make_beat()
    due(beat).tick()
    membership = beat._membership
    assert membership is not None
    url = beat.app.sluice_settings.redis_url.get_secret_value()
    with build_redis(url, membership.installation.redis_prefix) as redis:
        redis.delete(RELAY_QUEUE)
        wait(beat, MAX_INTERVAL_SECONDS).tick()
        assert redis.llen(RELAY_QUEUE) == 1


def test_what_no_key_signed_holds_back_no_task(make_beat: MakeBeat) -> None:
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
        assert redis.llen(RELAY_QUEUE) == before, "no list grows without end"
        redis.delete(RELAY_QUEUE)


def test_without_redis_beat_goes_on_and_says_so_once(make_beat: MakeBeat) -> None:
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
    assert turns(beat) == ALL, "what was not published is still due"


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_stops_nothing_and_hurries_nothing(
    make_beat: MakeBeat, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    beat = make_beat()
    assert turns(beat) == ALL
    real = time.time
    monkeypatch.setattr("time.time", lambda: real() + hours * 3_600)
    assert turns(beat) == []
    assert turns(wait(beat, 1.0)) == sorted(one.task for one in SCHEDULE if one.seconds == 1.0)
