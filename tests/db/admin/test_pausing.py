"""Pausing topics and entities on a real Postgres, and resuming them, which applies the waiting events."""

from collections.abc import Iterator

import pytest
from psycopg2.errors import UndefinedTable

from sluice.admin.decisions import OperationRefused
from sluice.admin.pause import park_by_hand, pause_topics, resume_entity, resume_topics, topics_paused
from sluice.bridge.progress_store import PostgresProgressStore
from sluice.db.admin.audit import Decision
from sluice.db.connection import BATCH_PLANS, Session
from sluice.db.delivery.progress import ProgressSession
from sluice.db.delivery.switches import read_paused_topics
from sluice.tasks.redrive import Redriver
from tests.db.tasks.applying import Bench, create_tables, made, nothing_in_kafka, slice_of, thing_set

DECISION = Decision("operator", "pause", "why")


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    create_tables(database_url)
    bench = Bench(database_url)
    yield bench
    bench.close()


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    opened = Session(database_url, application_name="test pause", plans=BATCH_PLANS)
    yield opened
    opened.close()


def audited(bench: Bench) -> list[tuple[object, ...]]:
    return bench.look("SELECT subject, details FROM sluice.audit ORDER BY id")


@pytest.fixture
def progress(bench: Bench) -> Iterator[ProgressSession]:
    opened = ProgressSession(bench.database_url, application_name="test bridge")
    yield opened
    opened.close()


def test_bridges_read_which_topics_are_paused(
    bench: Bench, session: Session, progress: ProgressSession
) -> None:
    store = PostgresProgressStore(progress, "sluice")
    assert store.read_progress([], set()).paused == frozenset()
    assert pause_topics(session, ["a", "b"], DECISION) == ["a", "b"]
    assert pause_topics(session, ["b", "c"], DECISION) == ["c"], "topic b is already paused"
    bench.look("INSERT INTO sluice.switches (name, actor, reason) VALUES ('effects paused', 'x', 'y')")
    assert store.read_progress([], set()).paused == {"a", "b", "c"}
    assert read_paused_topics(session)["a"] == "why"
    assert resume_topics(session, ["a", "x"], DECISION) == ["a"]
    assert store.read_progress([], set()).paused == {"b", "c"}
    assert audited(bench) == [
        ("topic a", {"paused": True}),
        ("topic b", {"paused": True}),
        ("topic c", {"paused": True}),
        ("topic a", {"paused": False}),
    ]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OperationRefused])
def test_topics_that_a_command_has_paused_are_resumed_after_any_error(
    bench: Bench, session: Session, error: type[BaseException]
) -> None:
    def interrupted() -> None:
        with topics_paused(session, ["a", "by another"], DECISION):
            assert set(read_paused_topics(session)) == {"a", "by another"}
            raise error

    pause_topics(session, ["by another"], DECISION)
    with pytest.raises(error):
        interrupted()
    assert set(read_paused_topics(session)) == {"by another"}


def test_a_warning_names_topics_that_could_not_be_resumed(bench: Bench, session: Session) -> None:
    warnings: list[str] = []

    def broken() -> None:
        with topics_paused(session, ["a"], DECISION, warn=warnings.append), session.transaction():
            session.command("ALTER TABLE sluice.switches RENAME TO away")

    with pytest.raises(UndefinedTable):
        broken()
    assert warnings == ['still paused: a; run `sluice resume --topic a --reason "…"`']


def test_events_of_a_paused_entity_wait_and_are_applied_in_order(bench: Bench, session: Session) -> None:
    assert park_by_hand(session, "thing", "k", DECISION, dry_run=True)
    assert park_by_hand(session, "thing", "k", DECISION, dry_run=False)
    assert not park_by_hand(session, "thing", "k", DECISION, dry_run=False)
    bench.apply(slice_of([thing_set(0, amount=1), thing_set(1, "other"), thing_set(2, amount=3)]))
    assert bench.outcomes() == {"applied": 1, "waiting": 2}
    resumed = resume_entity(
        session, Redriver(session, bench.registry, nothing_in_kafka), "thing", "k", DECISION
    )
    assert (resumed.unparked, resumed.outcomes) == (True, {"applied": 2})
    assert bench.amounts() == {"k": 3, "other": 1}
    assert bench.outcomes() == {"applied": 3}
    assert audited(bench) == [("thing k", {"paused": True}), ("thing k", {"paused": False})]


def test_an_entity_without_waiting_events_is_resumed(bench: Bench, session: Session) -> None:
    park_by_hand(session, "thing", "k", DECISION, dry_run=False)
    resumed = resume_entity(
        session, Redriver(session, bench.registry, nothing_in_kafka), "thing", "k", DECISION
    )
    assert (resumed.unparked, resumed.outcomes) == (True, {})
    with pytest.raises(OperationRefused, match="not paused"):
        resume_entity(session, Redriver(session, bench.registry, nothing_in_kafka), "thing", "k", DECISION)


def test_a_new_dead_letter_keeps_its_entity_paused(bench: Bench, session: Session) -> None:
    park_by_hand(session, "thing", "k", DECISION, dry_run=False)
    bench.apply(slice_of([thing_set(0), made(1, "thing.broken"), thing_set(2)]))
    resumed = resume_entity(
        session, Redriver(session, bench.registry, nothing_in_kafka), "thing", "k", DECISION
    )
    assert not resumed.unparked
    assert "a fault in the handler" in (resumed.blocked_by or "")
    assert bench.outcomes() == {"applied": 1, "dead": 1, "waiting": 1}


def test_pausing_keeps_the_error_of_a_dead_letter(bench: Bench, session: Session) -> None:
    bench.apply(slice_of([made(0, "thing.broken")]))
    assert not park_by_hand(session, "thing", "k", DECISION, dry_run=False)
    ((reason,),) = bench.look("SELECT reason FROM sluice.parked_entities")
    assert "a fault in the handler" in str(reason)


def test_an_entity_of_an_unknown_type_is_not_paused(session: Session, bench: Bench) -> None:
    with pytest.raises(OperationRefused, match="no entity type alien"):
        park_by_hand(session, "alien", "k", DECISION, dry_run=False)
