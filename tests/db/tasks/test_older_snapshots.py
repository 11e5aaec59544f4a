"""No transaction reads a generation with a snapshot from before the generation was filled."""

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sluice.admin.decisions import OperationRefused
from sluice.admin.operation_wait import until_possible
from sluice.admin.rebuild import generation_changes, older_snapshots
from sluice.admin.rebuild.generation_locks import Behind
from sluice.admin.rebuild.older_snapshots import OlderSnapshots, SnapshotWait
from tests.db.tasks import projecting, reading
from tests.db.tasks.applying import thing_set
from tests.db.tasks.projecting import DECISION, Bench
from tests.db.tasks.reading import RR, Reader, fill, wait_for_newer_snapshots
from tests.waiting import wait_until

bench = projecting.bench
opened = projecting.opened
open_reader = reading.open_reader

HELD = 1_800_018  # The key of an advisory lock.


def swap(bench: Bench, number: int, snapshots: SnapshotWait) -> int:
    """Makes one attempt of a swap that waits for older snapshots."""
    return generation_changes.swap(
        bench.session, bench.registry, bench.generation(number), DECISION, snapshots
    )


OLD = {
    "idle after a statement": f"{RR}; SELECT 1",
    "serializable": "BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1",
    "read only": f"{RR} READ ONLY; SELECT 1",
    "has written": f"{RR}; INSERT INTO public.things (thing_id, amount) VALUES ('old', 1)",
    "an open cursor": "BEGIN; DECLARE c CURSOR FOR SELECT thing_id FROM public.things; FETCH c",
    "in a savepoint": f"{RR}; SAVEPOINT s; SELECT 1",
    "has read the old generation": f"{RR}; SELECT FROM public.totals_g1",
}
NEW = {
    "no statement yet": RR,
    "read committed that wrote": "BEGIN; INSERT INTO public.things (thing_id, amount) VALUES ('new', 1)",
    "a cursor with hold": "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
    "ended": f"{RR}; SELECT 1; COMMIT",
}


def test_a_swap_waits_for_older_snapshots_and_names_only_these(
    bench: Bench, opened: Any, open_reader: Callable[..., Reader]
) -> None:
    bench.live(thing_set(0, "a", 1), thing_set(1, "b", 2))
    old = {what: open_reader(statement) for what, statement in OLD.items()}
    new = {what: open_reader(statement) for what, statement in NEW.items()}
    elsewhere = open_reader(f"{RR}; SELECT 1", "postgres")
    fixed, number = fill(bench, opened)
    for what, reader in old.items():
        with pytest.raises(OlderSnapshots) as refused:
            fixed.swap(number)
        pid = rf"pid {reader.pid} \(role app, application 'report', \d+ s old: "
        assert re.search(pid, str(refused.value)), what
        named = {int(found) for found in re.findall(r"pid (\d+)", str(refused.value))}
        assert named.isdisjoint(one.pid for one in (*new.values(), elsewhere))
        assert bench.states() == {1: "live", number: "ready"}
        reader.run("ROLLBACK")
    fixed.swap(number)
    for what, reader in {**old, **new}.items():
        assert reader.keys() == {"a", "b"}, what


def interrupted(_seconds: float) -> None:
    """Replaces `sleep`, and simulates Ctrl-C during a pause."""
    raise KeyboardInterrupt


def test_the_wait_of_a_swap_ends_by_timeout_or_ctrl_c(
    bench: Bench, opened: Any, open_reader: Callable[..., Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.live(thing_set(0, "a", 1), thing_set(1, "b", 2))
    reader = open_reader(f"{RR}; SELECT 1")
    fixed, number = fill(bench, opened)
    with pytest.raises(OperationRefused, match=r"nothing was changed\. Wait until these transactions end"):
        until_possible(lambda: fixed.swap(number), 0.0)
    with pytest.raises(KeyboardInterrupt):
        until_possible(lambda: fixed.swap(number), 60.0, sleep=interrupted)
    assert bench.states() == {1: "live", number: "ready"}
    monkeypatch.setattr(older_snapshots, "read_snapshots", lambda _session: [])
    fixed.swap(number)
    assert reader.keys() == set(), "without the wait, the reader sees no rows"


def test_a_reader_with_a_snapshot_newer_than_the_rebuild_sees_the_same_rows_after_a_swap(
    bench: Bench, opened: Any, open_reader: Callable[..., Reader]
) -> None:
    bench.live(thing_set(0, "a", 1), thing_set(1, "b", 2))
    fixed, number = fill(bench, opened)
    wait_for_newer_snapshots(bench)
    reader = open_reader(f"{RR}; SELECT 1")
    fixed.live(thing_set(2, "c", 3))
    fixed.swap(number)
    assert reader.keys() == {"a", "b"}
    wait_for_newer_snapshots(bench)
    reader.run(f"COMMIT; {RR}; SELECT 1")
    fixed.live(thing_set(3, "d", 4))
    fixed.swap(1)
    assert reader.keys() == {"a", "b", "c"}


@pytest.mark.parametrize("back", [False, True], ids=["swap", "swap back"])
def test_a_swap_waits_for_a_snapshot_older_than_the_catch_up_of_a_lane(
    bench: Bench, opened: Any, open_reader: Callable[..., Reader], monkeypatch: pytest.MonkeyPatch, back: bool
) -> None:
    bench.live(thing_set(0, "a", 1))
    fixed, number = fill(bench, opened)
    if back:
        fixed.swap(number)
        number = 1
    with monkeypatch.context() as lagging:
        lagging.setattr("sluice.tasks.apply.generation_writer.GenerationWriter.sync", lambda *_, **__: None)
        fixed.live(thing_set(1, "b", 2))
    wait_for_newer_snapshots(bench)
    reader, snapshots = open_reader(f"{RR}; SELECT 1"), SnapshotWait()
    with pytest.raises(Behind):
        swap(fixed, number, snapshots)
    assert fixed.rebuild(number)
    with pytest.raises(OlderSnapshots):
        swap(fixed, number, snapshots)
    reader.run("COMMIT")
    swap(fixed, number, snapshots)
    assert reader.keys() == {"a", "b"}


def test_a_swap_checks_again_if_a_lane_catches_up_before_the_locks(
    bench: Bench, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.live(thing_set(0, "a", 1))
    fixed, number = fill(bench, opened)
    require = SnapshotWait.require

    def filled_afterwards(*arguments: Any) -> int:
        xid = require(*arguments)
        bench.looking.command("UPDATE sluice.generation_lanes SET filled_xid = filled_xid + 1")
        return xid

    with monkeypatch.context() as patched:
        patched.setattr(SnapshotWait, "require", filled_afterwards)
        with pytest.raises(Behind, match="was behind the live generation at the last check"):
            fixed.swap(number)
    fixed.swap(number)


def test_a_swap_waits_for_a_snapshot_older_than_the_copy_of_a_checkpoint(
    bench: Bench, opened: Any, open_reader: Callable[..., Reader]
) -> None:
    bench.live(thing_set(0, "a", 1), thing_set(1, "b", 2))
    # The bridge would write this row. With this watermark, the rebuild has no records left to read.
    bench.looking.command("INSERT INTO sluice.partition_watermarks VALUES ('things', 0, 1, 2)")
    kept = bench.checkpoint("kept")
    reader = open_reader(f"{RR}; SELECT 1")
    number = bench.begin(checkpoint=kept)
    assert bench.rebuild(number)
    with pytest.raises(OlderSnapshots):
        bench.swap(number)
    reader.run("COMMIT")
    bench.swap(number)
    assert reader.keys() == {"a", "b"}


def test_a_swap_waits_until_a_long_statement_ends(
    bench: Bench, opened: Any, open_reader: Callable[..., Reader]
) -> None:
    bench.live(thing_set(0, "a", 1))
    holder, reader = open_reader(), open_reader()
    holder.run(f"SELECT pg_advisory_lock({HELD})")
    statement = f"SELECT pg_advisory_lock({HELD}), 'a long report'"
    running = threading.Thread(target=reader.run, args=(statement,))
    running.start()
    pid = reader.pid
    wait_until(
        lambda: bench.look(f"SELECT pid FROM pg_locks WHERE pid = {pid} AND NOT granted"),
        timeout_seconds=10,
        what="the statement waits",
    )
    fixed, number = fill(bench, opened)
    said: list[str] = []

    def end_statement(reason: str) -> None:
        said.append(reason)
        holder.run(f"SELECT pg_advisory_unlock({HELD})")

    snapshots = SnapshotWait()
    until_possible(lambda: swap(fixed, number, snapshots), 60, waiting=end_statement)
    running.join()
    assert re.search(rf"pid {pid} \(.* s old: SELECT pg_advisory_lock.* 'a long", said[0])
    assert bench.states()[number] == "live"


def test_a_swap_waits_for_the_importer_of_an_exported_snapshot(
    bench: Bench, opened: Any, open_reader: Callable[..., Reader]
) -> None:
    bench.live(thing_set(0, "a", 1))
    exporter, importer = open_reader(), open_reader()
    exporter.run(RR)
    ((name,),) = exporter.run("SELECT pg_export_snapshot()")
    fixed, number = fill(bench, opened)
    snapshots = SnapshotWait()
    with pytest.raises(OlderSnapshots):
        swap(fixed, number, snapshots)
    importer.run(f"{RR}; SET TRANSACTION SNAPSHOT '{name}'; SELECT 1")
    exporter.run("COMMIT")
    with pytest.raises(OlderSnapshots, match=f"pid {importer.pid} "):
        swap(fixed, number, snapshots)
    importer.run("COMMIT")
    swap(fixed, number, snapshots)


def test_a_swap_waits_for_a_prepared_transaction_and_names_it(
    bench: Bench, opened: Any, open_reader: Callable[..., Reader]
) -> None:
    bench.live(thing_set(0, "a", 1))
    reader = open_reader()
    name = f"transfer of {bench.look('SELECT current_database()')[0][0]}"
    reader.run(f"{RR}; INSERT INTO public.things (thing_id, amount) VALUES ('w', 1)")
    reader.run(f"PREPARE TRANSACTION '{name}'")
    fixed, number = fill(bench, opened)
    with pytest.raises(OlderSnapshots, match=rf"prepared transaction '{name}' \(role app, \d+ s old\)"):
        fixed.swap(number)
    reader.run(f"ROLLBACK PREPARED '{name}'")
    fixed.swap(number)
