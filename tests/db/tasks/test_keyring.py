"""A new signing key is accepted immediately. An old key ends when every process has read a newer key."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from sluice.db.connection import Session
from sluice.db.delivery.installation import create_installation, read_installation, read_keys
from sluice.db.delivery.living_processes import (
    Process,
    delete_process,
    end_old_keys,
    read_living,
    read_oldest_format,
    write_process,
)
from sluice.db.records import ProcessKind
from sluice.tasks.installation.formats import NEWEST_FORMAT
from sluice.tasks.installation.keyring import FRESH_SECONDS, SUSPICION_SECONDS, KeyRing, Signing


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    with closing(Session(database_url, application_name="test")) as opened:
        create_installation(opened, "sluice")
        yield opened


class Ring:
    """A key ring with its own clock. It counts how often the keys are read."""

    def __init__(self, session: Session) -> None:
        self.now = 0.0
        self.reads = 0
        self._session = session
        stored = read_installation(session)
        assert stored is not None
        self.ring = KeyRing(stored.installation, self._read, clock=lambda: self.now)

    def _read(self) -> Signing:
        self.reads += 1
        return Signing(read_keys(self._session), read_oldest_format(self._session))


def add_key(session: Session) -> None:
    session.command("INSERT INTO sluice.installation_keys (key) VALUES (decode(repeat('ab', 32), 'hex'))")


def process(**changes: Any) -> Process:
    plain = Process(uuid4(), ProcessKind.WORKER, "node", 1, NEWEST_FORMAT, 1, None, {"thing": 4}, {}, ())
    return plain._replace(**changes)


def test_two_rings_of_one_installation_open_each_others_messages(session: Session) -> None:
    one, other = Ring(session), Ring(session)
    frame = other.ring.open(one.ring.seal(1, b"content"))
    assert frame is not None
    assert (frame.version, frame.content) == (1, b"content")


def test_a_message_with_a_new_key_is_accepted_immediately(session: Session) -> None:
    before = Ring(session)
    before.now = SUSPICION_SECONDS
    add_key(session)
    message = Ring(session).ring.seal(1, b"content")
    assert before.ring.open(message) is not None
    assert before.reads == 2


def test_a_ring_that_does_not_read_the_keys_again_refuses_a_new_key(session: Session) -> None:
    before = Ring(session)
    add_key(session)
    message = Ring(session).ring.seal(1, b"content")
    assert before.ring.open(message) is None, "the clock has not advanced"


def test_keys_that_cannot_be_read_are_logged_once_a_minute(session: Session) -> None:
    ring = Ring(session)
    session.command("ALTER TABLE sluice.installation_keys RENAME TO taken_away")
    with capture_logs() as lines:
        for _ in range(12):
            ring.now += FRESH_SECONDS
            assert not ring.ring.refresh()
    assert [line["event"] for line in lines] == ["signing keys not read"] * 2
    session.command("ALTER TABLE sluice.taken_away RENAME TO installation_keys")
    assert ring.ring.refresh()


def test_forged_messages_cause_at_most_one_read_of_the_keys_per_second(session: Session) -> None:
    one = Ring(session)
    for tenth in range(50):
        one.now = tenth / 10
        assert one.ring.open(b"\0" * 100) is None
    assert one.reads == 5


def test_a_publisher_soon_signs_with_a_new_key(session: Session) -> None:
    one = Ring(session)
    add_key(session)
    assert one.ring.newest_number == 1
    one.now = FRESH_SECONDS
    one.ring.seal(1, b"")
    assert one.ring.newest_number == 2


def test_an_old_key_ends_when_every_running_process_has_read_a_newer_key(session: Session) -> None:
    late = process(key_number=1)
    write_process(session, late)
    write_process(session, process(key_number=2))
    add_key(session)
    assert end_old_keys(session) == 0
    write_process(session, late._replace(key_number=2))
    assert end_old_keys(session) == 1
    assert [key.number for key in read_keys(session)] == [2]


def test_a_process_without_a_heartbeat_does_not_keep_an_old_key(session: Session) -> None:
    write_process(session, process(key_number=1))
    add_key(session)
    session.command("UPDATE sluice.processes SET heartbeat_at = now() - interval '31 seconds'")
    assert read_living(session) == []
    assert end_old_keys(session) == 1


def test_a_process_that_has_not_read_a_key_keeps_the_old_key(session: Session) -> None:
    write_process(session, process(key_number=0))
    add_key(session)
    assert end_old_keys(session) == 0


def test_publishers_write_a_format_that_every_running_worker_reads(session: Session) -> None:
    old = process(format=0)
    write_process(session, old)
    write_process(session, process(format=9))
    write_process(session, process(kind=ProcessKind.BEAT, format=-1))
    assert Ring(session).ring.format == 0
    delete_process(session, old.process)
    assert Ring(session).ring.format == NEWEST_FORMAT, "it is the newest format that this process writes"


def test_without_a_worker_the_newest_format_is_written(session: Session) -> None:
    assert Ring(session).ring.format == NEWEST_FORMAT


def test_the_row_of_a_process_is_read_as_it_was_written(session: Session) -> None:
    written = process(queues=("a.0",), topics={"t": "thing"}, effects=("charge",), clock_offset=-3.5)
    write_process(session, written)
    assert read_living(session) == [written]
