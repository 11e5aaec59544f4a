"""For the same events, the fold in memory and Postgres produce the same rows."""

from collections.abc import Iterator
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sluice.db.connection import BATCH_PLANS, Session
from sluice.db.errors import RowsChanged
from sluice.db.tables import shape_of
from sluice.tasks.api import Delete, Insert, Merge, Read, Upsert
from sluice.tasks.fold.plan import Planned
from tests.db.tasks.contract import AWKWARD, Apart, check, settle_exactly
from tests.harness.raw_sql import make_engine
from tests.unit.tasks.newer_logs import by_position, natural_logs
from tests.unit.tasks.scripted import event_logs, folded, scripted, splits
from tests.unit.tasks.strategies import AWKWARD_TEXTS, EVERY_TYPE, metadata, whole


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    engine = make_engine(database_url, connect_args={"options": "-c search_path=public"})
    metadata.create_all(engine)
    engine.dispose()
    session = Session(database_url, application_name="contract", plans=BATCH_PLANS)
    yield session
    session.close()


def test_memory_and_postgres_agree_for_batches_of_any_size(session: Session) -> None:
    @settings(
        max_examples=150,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.data())
    def agree(data: st.DataObject) -> None:
        check(session, data.draw(event_logs().flatmap(splits)))

    agree()


@pytest.mark.parametrize("logs", [natural_logs(), event_logs().map(by_position)], ids=["natural", "position"])
def test_memory_and_postgres_agree_for_topics_without_identities(
    session: Session, logs: st.SearchStrategy[list[Planned]]
) -> None:
    @settings(
        max_examples=60,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.data())
    def agree(data: st.DataObject) -> None:
        check(session, data.draw(logs.flatmap(splits)))

    agree()


def test_a_mutant_without_dedup_is_caught(session: Session) -> None:
    log = [scripted(n, Insert(EVERY_TYPE, f"k{n}", {}), identity=1) for n in range(2)]
    check(session, [log])
    check(session, [log[:1], log[1:]])
    with pytest.raises(RowsChanged, match="another transaction stored 1 of the identities"):
        check(session, [log[:1], log[1:]], partial(settle_exactly, forgetful=True))


def test_mutants_that_do_not_write_bookkeeping_are_caught(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted = [
        scripted(0, Delete(EVERY_TYPE, "k", 3)),
        scripted(1, Upsert(EVERY_TYPE, "k", whole(EVERY_TYPE, {}), 2)),
    ]
    merged = [
        scripted(2, Merge(EVERY_TYPE, "m", {"yes": True}, 5)),
        scripted(3, Upsert(EVERY_TYPE, "m", whole(EVERY_TYPE, {}), 4)),
    ]
    check(session, [[event] for event in deleted + merged])
    with monkeypatch.context() as patched:
        patched.setattr("sluice.tasks.apply.row_store.rows.write_tombstones", lambda *_: None)
        with pytest.raises(Apart):
            check(session, [[event] for event in deleted])
    with monkeypatch.context() as patched:
        patched.setattr("sluice.tasks.apply.row_store.FIELD_VERSIONS", "forgotten")
        patched.setattr("sluice.db.apply.rows.FIELD_VERSIONS", "forgotten")
        with pytest.raises(Apart):
            check(session, [[event] for event in merged])


@pytest.mark.parametrize("name", AWKWARD)
def test_values_that_postgres_would_alter_are_stored_unchanged(session: Session, name: str) -> None:
    assert set(AWKWARD) == set(shape_of(EVERY_TYPE).fields), "every column is tested"
    log: list[Planned] = []
    for number, value in enumerate((*AWKWARD[name], None)):
        key = f"k{number}"
        for write in (
            Insert(EVERY_TYPE, key, {name: value}),
            Upsert(EVERY_TYPE, key, whole(EVERY_TYPE, {name: value}), 5),
            # A duplicate: its version is equal.
            Upsert(EVERY_TYPE, key, whole(EVERY_TYPE, {name: value}), 5),
            Merge(EVERY_TYPE, key, {name: value}, 6),
            # A duplicate: its hash is equal.
            Insert(EVERY_TYPE, key, {name: value}),
            Read(EVERY_TYPE, key),
        ):
            log.append(scripted(len(log), write))
    check(session, [log])
    check(session, [[event] for event in log])
    outcomes = [settled.outcome.value for settled in folded(*log)[1].settled if settled.outcome]
    assert outcomes == ["applied", "applied", "duplicate", "applied", "duplicate", "applied"] * (
        len(log) // 6
    )


@pytest.mark.parametrize("key", AWKWARD_TEXTS)
def test_awkward_keys_are_stored_unchanged(session: Session, key: str) -> None:
    log = [
        scripted(0, Upsert(EVERY_TYPE, key, whole(EVERY_TYPE, {}), 1)),
        scripted(1, Merge(EVERY_TYPE, key, {"yes": True}, 3)),
        scripted(2, Delete(EVERY_TYPE, key, 2)),
        scripted(3, Delete(EVERY_TYPE, key, 4)),
        scripted(4, Upsert(EVERY_TYPE, key, whole(EVERY_TYPE, {}), 4)),
        scripted(5, Upsert(EVERY_TYPE, key, whole(EVERY_TYPE, {}), 5)),
    ]
    check(session, [[event] for event in log])
    check(session, [log[:3], log[3:]])
