"""Tests which open transactions may have an old snapshot, and how messages name these transactions."""

from hypothesis import given
from hypothesis import strategies as st

from sluice.admin.rebuild.older_snapshots import OlderHolders
from sluice.admin.rebuild.open_transactions import MOST_NAMED, name_transaction, name_transactions
from sluice.db.projections.snapshots import OpenTransaction, SnapshotHolder, full_xid

SESSION = OpenTransaction(7, "app", "report", 90.4, "SELECT\n  1")


@given(st.integers(3, 2**40), st.integers(-(2**31), 2**31 - 1))
def test_a_32_bit_transaction_id_is_extended_to_the_nearest_64_bit_id(near: int, distance: int) -> None:
    assert full_xid((near + distance) % 2**32, near) == near + distance


def holder(key: str, xmin: int) -> SnapshotHolder:
    return SnapshotHolder(key, xmin, SESSION)


def keys(found: list[SnapshotHolder]) -> set[str]:
    return {one.key for one in found}


@given(st.data())
def test_every_check_finds_the_old_snapshots_and_later_transactions_do_not_prolong_the_wait(
    data: st.DataObject,
) -> None:
    """Transaction 10 filled the generation. Transaction 5 still writes, so new snapshots may have xmin 5."""
    holders = OlderHolders()
    old = {f"old{n}": data.draw(st.integers(1, 10)) for n in range(3)}
    importers: dict[str, int] = {}
    for look in range(4):
        young = [holder(f"young{look}.{n}", data.draw(st.sampled_from([5, 11]))) for n in range(2)]
        found = holders.look([holder(*one) for one in {**old, **importers}.items()] + young, 10)
        assert keys(found) >= old.keys() | importers.keys()
        ending = data.draw(st.sets(st.sampled_from(sorted(old)))) if old else set()
        importers |= {f"importer of {key}": old[key] for key in ending if data.draw(st.booleans())}
        old = {key: xmin for key, xmin in old.items() if key not in ending}
    holders.look([holder("young", 5)], 10)
    assert holders.look([holder("younger", 5)], 10) == []


def test_the_wait_for_a_transaction_ends_when_a_check_finds_no_old_snapshot_in_it() -> None:
    holders = OlderHolders()
    assert keys(holders.look([holder("a", 5), holder("b", 5)], 10)) == {"a", "b"}
    assert keys(holders.look([holder("b", 5)], 10)) == {"b"}
    assert keys(holders.look([holder("a", 11)], 10)) == set()
    # The next statement of `a` has an old xmin again, because transaction 5 still writes.
    assert keys(holders.look([holder("a", 5), holder("c", 5)], 10)) == set()


def test_the_wait_for_a_transaction_that_imported_an_old_snapshot_lasts_until_the_transaction_ends() -> None:
    holders = OlderHolders()
    holders.look([holder("exporter", 5)], 10)
    assert keys(holders.look([holder("importer", 5), holder("young", 6)], 10)) == {"importer"}
    assert keys(holders.look([holder("importer", 5), holder("late", 5)], 10)) == {"importer"}
    assert keys(holders.look([], 10)) == set()


def test_transactions_are_named_in_one_line() -> None:
    assert name_transaction(SESSION) == "pid 7 (role app, application 'report', 90 s old: SELECT 1)"
    hidden = SESSION._replace(seconds=None, query=None)
    assert name_transaction(hidden) == "pid 7 (role app, application 'report')"
    prepared = OpenTransaction(None, "app", "transfer", 5.0, None)
    assert name_transaction(prepared) == "prepared transaction 'transfer' (role app, 5 s old)"
    long = name_transaction(SESSION._replace(query=f"SELECT {'x' * 100}"))
    assert long.endswith("xxx…)")
    assert "\n" not in name_transaction(SESSION._replace(name="a\nb"))


def test_the_oldest_transactions_are_named_and_the_others_are_counted() -> None:
    many = [SESSION._replace(pid=n, seconds=float(n)) for n in range(MOST_NAMED + 2)]
    named = name_transactions(many)
    assert named.startswith(f"pid {MOST_NAMED + 1} (")
    assert named.endswith(" and 2 more")
    assert named.count("pid ") == MOST_NAMED
