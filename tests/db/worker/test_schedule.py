"""Of two beats on one Postgres one schedules; without Postgres none does, and none ends."""

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
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
from sluice.runtime.redis_client import build_redis
from sluice.runtime.redis_item import Item, read_item
from sluice.runtime.settings import read_settings
from sluice.tasks.installation.joining import wait_for_installation
from sluice.tasks.task_messages import READERS
from sluice.worker.beat import MAX_INTERVAL_SECONDS, MAX_WAITING, SluiceScheduler
from sluice.worker.schedule import SCHEDULE
from tests.waiting import wait_until

ALL = sorted(entry["task"] for entry in SCHEDULE.values())

MakeBeat = Callable[..., SluiceScheduler]


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
        beat = SluiceScheduler(app)
        made.append(beat)
        return beat

    with structlog.testing.capture_logs():
        yield make
    for beat in made:
        taken(beat)
        beat.close()


def due(beat: SluiceScheduler) -> SluiceScheduler:
    """Everything of this beat is due now."""
    for entry in beat.schedule.values():
        entry.last_run_at -= timedelta(days=1)
    beat._heap = None
    return beat


def turns(beat: SluiceScheduler) -> list[str]:
    """Turns of its loop until it would wait; the tasks that are on the queues then."""
    for _ in range(2 * len(SCHEDULE)):
        if beat.tick() > 0:
            break
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


def test_no_list_grows_while_nobody_takes_from_it(make_beat: MakeBeat) -> None:
    beat = make_beat()
    for _ in range(3 * MAX_WAITING):
        due(beat)
        for _ in range(2 * len(SCHEDULE)):
            if beat.tick() > 0:
                break
    assert len(taken(beat)) == 2 * MAX_WAITING
