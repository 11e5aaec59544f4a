"""Changes of an installation on a real Postgres. Each is atomic. A copied database sends no events."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest
from psycopg2.errors import InsufficientPrivilege, ReadOnlySqlTransaction
from sqlalchemy.engine import make_url

from sluice.admin import installation as module
from sluice.admin.connection import connected
from sluice.admin.decisions import OperationRefused
from sluice.admin.installation import (
    HELD,
    Change,
    add_key,
    make_new_installation,
    note_move,
    require_nothing_runs,
)
from sluice.admin.outbox import drop_all, retry_all
from sluice.db.admin.audit import Decision
from sluice.db.connection import Session
from sluice.db.delivery.installation import (
    StoredInstallation,
    create_installation,
    read_database,
    read_installation,
    read_keys,
)
from sluice.db.delivery.living_processes import Process, end_old_keys, write_process
from sluice.db.delivery.switches import read_switch
from sluice.db.records import ProcessKind
from sluice.db.sending.calls import EFFECTS_PAUSED
from sluice.db.sending.relay import lock_waiting, read_page, read_sent_through
from sluice.runtime.installation import Installation, InstallationRefused
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.tasks.installation import opening
from sluice.tasks.installation.opening import check_installation
from tests.db.admin.leaving import insert_call, insert_event, rows
from tests.mutants import mutated

DECISION = Decision("ann@host", "init new-installation", "because")
NAME = "sluice"
OTHERS = ("claims", "processes", "undeclared", "workers")


@pytest.fixture
def session(make_session: Callable[[], Session]) -> Session:
    session = make_session()
    create_installation(session, NAME)
    session.command("INSERT INTO sluice.entities (entity, shards) VALUES ('order', 1)")
    session.command("INSERT INTO sluice.queues (queue, entity) VALUES ('order.0', 'order')")
    return session


def stored(session: Session) -> StoredInstallation:
    found = read_installation(session)
    assert found is not None
    return found


def make_copy(session: Session, *, by: str = "database_oid = database_oid + 1") -> None:
    """Changes the row of the installation as if this database were a copy of another database."""
    session.command(f"UPDATE sluice.installation SET {by}, rank = 3")


def alive(kind: ProcessKind = ProcessKind.BRIDGE, *, key_number: int = 1) -> Process:
    return Process(uuid4(), kind, "node", 7, 1, key_number, None, {}, {}, ())


def fill_others(session: Session) -> None:
    write_process(session, alive())
    session.command("INSERT INTO sluice.claims (claim) VALUES (gen_random_uuid())")
    session.command("INSERT INTO sluice.undeclared (kind, name) VALUES ('effect', 'notify')")
    session.command(
        "INSERT INTO sluice.workers (backend_pid, node, process_id, leases) VALUES (1, 'w', 1, '{}')"
    )


def fill_leaving(session: Session) -> None:
    for number in range(1, 4):
        insert_event(session, number)
    insert_event(session, 4, key=None, refused="too large")
    for state in ("pending", "running", "succeeded", "failed", "uncertain"):
        insert_call(session, state, state, error="before" if state in ("failed", "uncertain") else None)
    session.command("UPDATE sluice.executed_side_effects SET claimed_until = now() WHERE state = 'running'")


def everything(session: Session) -> list[list[tuple[Any, ...]]]:
    tables = ("installation", "installation_keys", *OTHERS, "switches", "outbox_events", "outbox_refusals")
    return [rows(session, f"SELECT * FROM sluice.{table}") for table in (*tables, "audit")] + [
        rows(session, "SELECT * FROM sluice.executed_side_effects ORDER BY id")
    ]


def calls(session: Session) -> dict[str, tuple[Any, ...]]:
    found = rows(session, "SELECT effect_key, state, error, claimed_until FROM sluice.executed_side_effects")
    return {key: tuple(rest) for key, *rest in found}


def sendable(session: Session) -> list[int]:
    """Returns the events that a relay would send now."""
    with session.transaction():
        hints = read_sent_through(session)
        locked = lock_waiting(session, hints)
        page = read_page(
            session, {queue: hints[queue] for queue in locked}, without_topics=[], limit=100, newest_format=1
        )
    return [row.id for row in page]


def test_a_new_installation_has_a_new_id_and_key_and_holds_outgoing_work(session: Session) -> None:
    fill_others(session)
    fill_leaving(session)
    make_copy(session)
    before, keys = stored(session), read_keys(session)
    changed = make_new_installation(session, "staging", DECISION)
    after = stored(session)
    assert (changed.before, changed.after) == (before.installation.group, after.installation.group)
    assert after.installation.name == "staging"
    assert after.installation.id != before.installation.id
    assert after.rank == 0
    assert check_installation(session, name="staging") == after
    [key] = read_keys(session)
    assert key.key not in {one.key for one in keys}
    assert key.number > keys[0].number, "a process that has read the old key has not read the new key"
    assert [rows(session, f"SELECT count(*) FROM sluice.{table}") for table in OTHERS] == [[(0,)]] * 4
    assert read_switch(session, EFFECTS_PAUSED) == HELD
    assert (changed.held_events, changed.held_calls) == (3, 2)
    assert sendable(session) == []
    assert calls(session) == {
        "pending": ("uncertain", HELD, None),
        "running": ("uncertain", HELD, None),
        "succeeded": ("succeeded", None, None),
        "failed": ("failed", "before", None),
        "uncertain": ("uncertain", "before", None),
    }
    [(subject, verb, held)] = rows(
        session, "SELECT subject, verb, details -> 'held_events' FROM sluice.audit"
    )
    assert (subject, verb, held) == (changed.after, "init new-installation", 3)


def test_the_operator_releases_or_drops_held_events(session: Session) -> None:
    fill_leaving(session)
    make_copy(session)
    make_new_installation(session, NAME, DECISION)
    assert len(retry_all(session, None, DECISION, dry_run=False)) == 4
    assert sendable(session) == [1, 2, 3, 4]
    make_copy(session)
    assert make_new_installation(session, NAME, DECISION).held_events == 4
    assert drop_all(session, None, DECISION) == 4
    assert rows(session, "SELECT count(*) FROM sluice.outbox_events") == [(0,)]


def test_making_a_new_installation_is_atomic(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_others(session)
    fill_leaving(session)
    make_copy(session)
    before = everything(session)

    def fail(*_: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(module, "insert_audits", fail)
    with pytest.raises(RuntimeError, match="killed"):
        make_new_installation(session, NAME, DECISION)
    assert everything(session) == before


def test_a_database_not_recognised_as_a_copy_can_become_a_new_installation(session: Session) -> None:
    before = stored(session).installation
    write_process(session, alive())
    with pytest.raises(
        OperationRefused, match=rf"processes of {before.group} use this database: bridge node"
    ):
        make_new_installation(session, NAME, DECISION)
    assert stored(session).installation == before
    session.command("UPDATE sluice.processes SET heartbeat_at = now() - interval '1 minute'")
    make_new_installation(session, NAME, DECISION)
    assert stored(session).installation.id != before.id


def test_a_running_installation_is_not_replaced() -> None:
    group = Installation("a", uuid4())
    require_nothing_runs(group, [])
    with pytest.raises(OperationRefused):
        require_nothing_runs(group, [alive()])
    mutated(module, "    if living:\n", "    if False:\n").require_nothing_runs(group, [alive()])


@pytest.mark.parametrize("by", ["database_oid = database_oid + 1", "system_identifier = '1'"])
def test_a_move_keeps_id_and_key(session: Session, by: str) -> None:
    before, keys = stored(session), read_keys(session)
    make_copy(session, by=by)
    with pytest.raises(InstallationRefused, match="this database is a copy"):
        check_installation(session, name=NAME)
    assert note_move(session, NAME, DECISION).changed
    found = check_installation(session, name=NAME)
    assert (found.installation, found.database, found.rank) == (before.installation, before.database, 3)
    assert read_keys(session) == keys
    assert not note_move(session, NAME, DECISION).changed
    assert rows(session, "SELECT count(*) FROM sluice.audit") == [(1,)]


def test_a_move_stores_the_system_identifier_that_could_not_be_read_before(session: Session) -> None:
    before = stored(session)
    make_copy(session, by="system_identifier = NULL")
    assert check_installation(session, name=NAME), "an identifier that cannot be read is not compared"
    assert note_move(session, NAME, DECISION).changed
    assert stored(session).database == before.database


def test_the_share_is_stored_once_and_all_others_are_refused(
    make_session: Callable[[], Session],
) -> None:
    session, share = make_session(), PartitionShare(1, 2)
    assert create_installation(session, NAME, share)
    assert not create_installation(session, NAME, PartitionShare(2, 2)), "a stored share is kept"
    assert stored(session).share == share
    assert check_installation(session, name=NAME, share=share)
    for other in (WHOLE, PartitionShare(2, 2), PartitionShare(1, 4)):
        with pytest.raises(InstallationRefused) as refused:
            check_installation(session, name=NAME, share=other)
        assert f"SLUICE_PARTITION_SHARE is {other}, but the installation" in str(refused.value)
        assert "set SLUICE_PARTITION_SHARE=1/2" in str(refused.value)
    make_copy(session)
    assert make_new_installation(session, "staging", DECISION)
    assert stored(session).share == share, "the rows of a copy belong to the share"


def test_an_installation_without_a_share_takes_all_partitions(session: Session) -> None:
    assert stored(session).share == WHOLE
    with pytest.raises(InstallationRefused, match="SLUICE_PARTITION_SHARE is 1/2"):
        check_installation(session, name=NAME, share=PartitionShare(1, 2))


def test_a_mutant_that_accepts_another_share_is_caught(session: Session) -> None:
    mutant = mutated(opening, "    require_share(stored, share)\n", "")
    assert mutant.check_installation(session, name=NAME, share=PartitionShare(1, 2)), (
        "the test above would fail"
    )


def test_a_move_of_another_installation_is_refused(session: Session) -> None:
    make_copy(session)
    with pytest.raises(InstallationRefused, match="SLUICE_NAME is other"):
        note_move(session, "other", DECISION)


def test_a_new_key_replaces_the_old_key_when_every_running_process_has_read_it(session: Session) -> None:
    [old] = read_keys(session)
    reader, late = alive(key_number=old.number), alive(ProcessKind.WORKER, key_number=old.number)
    write_process(session, reader)
    write_process(session, late)
    changed = add_key(session, NAME, DECISION)
    assert [key.number for key in read_keys(session)] == [changed.key_number, old.number]
    write_process(session, reader._replace(key_number=changed.key_number or 0))
    assert end_old_keys(session) == 0
    write_process(session, late._replace(key_number=changed.key_number or 0))
    assert end_old_keys(session) == 1
    assert changed.change is Change.NEW_KEY
    assert (changed.before, changed.after) == (stored(session).installation.group,) * 2


def test_a_copy_gets_no_new_key(session: Session) -> None:
    make_copy(session)
    with pytest.raises(InstallationRefused, match="this database is a copy"):
        add_key(session, NAME, DECISION)
    assert len(read_keys(session)) == 1


@pytest.fixture
def restricted(session: Session, database_url: str) -> Iterator[Session]:
    """Yields a session of a role that has no right to read the system identifier or the keys."""
    role = f"restricted_{uuid4().hex}"
    session.command(f"CREATE ROLE {role} LOGIN")
    session.command("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    url = make_url(database_url).set(username=role).render_as_string(hide_password=False)
    with closing(Session(url, application_name="test restricted")) as opened:
        yield opened
    session.command(f"DROP ROLE {role}")


def test_a_role_without_rights_passes_the_check_and_detects_a_copy(
    session: Session, restricted: Session
) -> None:
    assert read_database(restricted).system_identifier is None
    assert check_installation(restricted, name=NAME) == stored(session)
    with pytest.raises(InsufficientPrivilege):
        read_keys(restricted)
    make_copy(session, by="system_identifier = '1'")
    assert check_installation(restricted, name=NAME), (
        "the identifier is the only difference, and the role cannot read it"
    )
    make_copy(session)
    with pytest.raises(InstallationRefused, match="this database is a copy"):
        check_installation(restricted, name=NAME)


def test_a_reading_command_cannot_write_to_a_copy(
    session: Session, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_DATABASE_URL", database_url)
    monkeypatch.setenv("SLUICE_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("SLUICE_KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    refusals: list[str] = []
    with connected("test", report_refusal=refusals.append) as fine:
        add_key(fine, NAME, DECISION)
    assert refusals == []
    make_copy(session)
    with connected("test", report_refusal=refusals.append) as reading:
        assert len(read_keys(reading)) == 2
        with pytest.raises(ReadOnlySqlTransaction):
            reading.command("DELETE FROM sluice.installation_keys")
    assert len(refusals) == 1
