"""A purge on a real Postgres deletes old rows, and keeps the rows that are still needed."""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg2
import pytest

from sluice.db.admin import retention
from sluice.db.admin.retention import PURGE_PLANS
from sluice.runtime.settings import Settings, read_settings
from sluice.tasks import retention as retention_module
from sluice.tasks.api import Call, Effect, Event, handles
from sluice.tasks.retention import MOST_SECONDS, Purged, page_ranges, purge
from tests.db.tasks.applying import QUEUE, TOPIC, Bench, create_tables, made, registry, slice_of, thing_set
from tests.db.tasks.recording import RecordingSession

OLD = "now() - interval '40 days'"
DAY_MS = 86_400_000
WEEK = {"cleanup.policy": "delete", "retention.ms": str(7 * DAY_MS), "segment.ms": str(7 * DAY_MS)}
FOR_EVER = WEEK | {"retention.ms": "-1"}


@handles("thing.welcomed")
def welcome(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Yields a call with an explicit `once`, which is therefore made only one time."""
    yield Call("notify", once=f"welcome:{event.key}", args={"text": event.data["text"]})


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    create_tables(database_url)
    application = registry()
    [entry] = application.handlers["thing.set"]
    name = f"{welcome.__module__}.{welcome.__qualname__}"
    welcoming = replace(
        entry, name=name, types=("thing.welcomed",), function=welcome, data_type=dict[str, Any]
    )
    application.handlers["thing.welcomed"] = (welcoming,)
    bench = Bench(database_url, application)
    yield bench
    bench.close()


@pytest.fixture
def settings(database_url: str) -> Settings:
    return read_settings(
        {
            "SLUICE_DATABASE_URL": database_url,
            "SLUICE_REDIS_URL": "redis://nowhere",
            "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "nowhere",
            "SLUICE_KEEP_IDENTITIES_DAYS": "30",
            "SLUICE_KEEP_EFFECTS_DAYS": "30",
            "SLUICE_KEEP_DEAD_LETTERS_DAYS": "30",
        }
    )


def run_purge(bench: Bench, settings: Settings, config: dict[str, str] = WEEK) -> dict[str, int]:
    purged = purge(bench.looking, settings, {TOPIC: config})
    assert (purged.failed, purged.more) == ({}, False)
    return purged.gone


def age(bench: Bench, table: str, *columns: str) -> None:
    bench.look(f"UPDATE sluice.{table} SET {', '.join(f'{column} = {OLD}' for column in columns)}")


def identities(bench: Bench) -> list[tuple[Any, ...]]:
    return bench.look('SELECT event_id, outcome FROM sluice.processed_events ORDER BY "offset"')


def test_old_identities_of_applied_events_are_deleted_and_others_stay(
    bench: Bench, settings: Settings
) -> None:
    bench.apply(slice_of([thing_set(0), made(1, "thing.broken", "p"), thing_set(2, "p")]))
    bench.look("UPDATE sluice.processed_events SET outcome = 'waiting' WHERE event_id = 'e2'")
    age(bench, "processed_events", "processed_at")
    bench.apply(slice_of([thing_set(3)], prev=2))
    assert run_purge(bench, settings) == {f"identities of {TOPIC}": 1}
    assert identities(bench) == [("e1", "dead"), ("e2", "waiting"), ("e3", "applied")]
    assert run_purge(bench, settings) == {}


@pytest.mark.parametrize("config", [FOR_EVER, {**WEEK, "retention.ms": str(2**63 - 1)}, {}])
def test_a_topic_that_is_kept_for_ever_keeps_its_identities_but_not_its_calls(
    bench: Bench, settings: Settings, config: dict[str, str]
) -> None:
    bench.apply(slice_of([thing_set(0)]))
    age(bench, "processed_events", "processed_at")
    finish_calls(bench)
    assert run_purge(bench, settings, config) == {"calls": 1}
    assert identities(bench) == [("e0", "applied")]
    # The repeat makes no new call, although the old call was deleted, because the event is a duplicate.
    bench.apply(slice_of([thing_set(1, event_id="e0", version=0)], prev=0))
    assert bench.outcomes() == {"applied": 1, "duplicate": 1}
    assert calls(bench) == []


@pytest.mark.parametrize(
    ("retention_days", "segment_days", "stays"), [(25, 7, False), (33, 7, True), (25, 15, True)]
)
def test_identities_outlive_the_segment_that_holds_their_records(
    bench: Bench, settings: Settings, retention_days: int, segment_days: int, stays: bool
) -> None:
    """The event was applied 40 days ago."""
    bench.apply(slice_of([thing_set(0)]))
    age(bench, "processed_events", "processed_at")
    ages = {"retention.ms": str(retention_days * DAY_MS), "segment.ms": str(segment_days * DAY_MS)}
    run_purge(bench, settings, WEEK | ages)
    assert len(identities(bench)) == stays


@pytest.mark.parametrize("repeated", [False, True])
def test_a_repeated_event_is_known_as_long_as_its_repeat_is_in_the_log(
    bench: Bench, settings: Settings, repeated: bool
) -> None:
    """If the identity was deleted earlier, a new reading of the log would apply the repeat as a new event."""
    bench.apply(slice_of([thing_set(0)]))
    age(bench, "processed_events", "processed_at")
    record = thing_set(1, event_id="e0", version=0) if repeated else thing_set(1)
    bench.apply(slice_of([record], prev=0))
    run_purge(bench, settings)
    assert ("e0", "applied") in identities(bench) or not repeated
    assert len(identities(bench)) == 1


def test_identities_are_kept_longer_while_an_entity_is_parked(bench: Bench, settings: Settings) -> None:
    bench.apply(slice_of([thing_set(0)]))
    bench.look(f"INSERT INTO sluice.parked_entities VALUES ('thing', 'p', '{QUEUE}', 'why')")
    age(bench, "processed_events", "processed_at")
    age(bench, "parked_entities", "parked_at")
    assert retention.read_oldest_parked_seconds(bench.looking) == pytest.approx(40 * 86_400, abs=60)
    assert run_purge(bench, settings) == {}
    bench.look("DELETE FROM sluice.parked_entities")
    assert retention.read_oldest_parked_seconds(bench.looking) == 0
    assert run_purge(bench, settings) == {f"identities of {TOPIC}": 1}


def calls(bench: Bench) -> list[tuple[Any, ...]]:
    return bench.look("SELECT state, args, response FROM sluice.executed_side_effects ORDER BY id")


def finish_calls(bench: Bench) -> None:
    """Marks all calls as succeeded 40 days ago."""
    bench.look(
        f"UPDATE sluice.executed_side_effects SET state = 'succeeded', response = '1', settled_at = {OLD}"
    )


def test_a_call_with_an_explicit_once_keeps_its_key_and_fingerprint_for_ever(
    bench: Bench, settings: Settings
) -> None:
    bench.apply(slice_of([made(0, "thing.welcomed", text="hello")]))
    finish_calls(bench)
    fingerprint = bench.look("SELECT effect_key, fingerprint FROM sluice.executed_side_effects")
    assert run_purge(bench, settings) == {"call arguments": 1}
    assert calls(bench) == [("succeeded", None, None)]
    assert bench.look("SELECT effect_key, fingerprint FROM sluice.executed_side_effects") == fingerprint
    assert run_purge(bench, settings) == {}
    # Other events yield the same call again. The same text changes nothing. Another text is a conflict.
    bench.apply(slice_of([made(1, "thing.welcomed", text="hello"), made(2, "thing.welcomed", text="ho")], 0))
    assert calls(bench) == [("succeeded", None, None)]
    assert bench.outcomes() == {"applied": 3, "call_conflict": 1}


def test_a_repeat_makes_no_second_call_while_its_event_or_its_call_is_kept(
    bench: Bench, settings: Settings
) -> None:
    bench.apply(slice_of([thing_set(0)]))
    age(bench, "processed_events", "processed_at")
    finish_calls(bench)
    # The key of the call contains the identity of the event, so a repeat yields the same key. While the event
    # or the call is stored, a repeat makes no second call.
    repeat = thing_set(1, event_id="e0", version=0)
    bench.look("DELETE FROM sluice.processed_events")
    bench.apply(slice_of([repeat], prev=0))
    assert calls(bench) == [("succeeded", {"amount": 1}, 1)]
    assert run_purge(bench, settings) == {"calls": 1}
    bench.apply(slice_of([repeat._replace(offset=2)], prev=1))
    assert calls(bench) == []


@pytest.mark.parametrize("state", ["pending", "running", "failed", "uncertain"])
def test_a_call_that_has_not_succeeded_is_never_deleted(bench: Bench, settings: Settings, state: str) -> None:
    bench.apply(slice_of([thing_set(0)]))
    bench.look(f"UPDATE sluice.executed_side_effects SET state = '{state}', settled_at = {OLD}")
    assert run_purge(bench, settings) == {}
    assert len(calls(bench)) == 1


@pytest.mark.parametrize(
    ("state", "goes"), [("dead", False), ("waiting", False), ("done", True), ("dropped", True)]
)
@pytest.mark.parametrize("is_old", [True, False])
def test_dead_letters_are_deleted_when_they_are_settled_and_old(
    bench: Bench, settings: Settings, state: str, goes: bool, is_old: bool
) -> None:
    bench.apply(slice_of([made(0, "thing.broken")]))
    bench.look(f"UPDATE sluice.dead_letters SET state = '{state}', settled_at = {OLD if is_old else 'now()'}")
    assert run_purge(bench, settings) == ({"dead letters": 1} if goes and is_old else {})


@pytest.fixture
def old_rows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes 25 old identities, 25 old calls and 25 old letters. A step of a purge deletes 10 rows."""
    monkeypatch.setattr("sluice.tasks.retention.ROWS", 10)
    bench.apply(slice_of([thing_set(n, f"k{n}") for n in range(25)]))
    bench.apply(slice_of([made(n, "thing.broken", f"b{n}") for n in range(25, 50)], prev=24))
    bench.look(f"UPDATE sluice.dead_letters SET state = 'done', settled_at = {OLD}")
    bench.look("DELETE FROM sluice.processed_events WHERE outcome = 'dead'")
    age(bench, "processed_events", "processed_at")
    finish_calls(bench)


IDENTITIES = f"identities of {TOPIC}"


@pytest.mark.usefixtures("old_rows")
def test_a_purge_deletes_rows_of_each_kind_and_the_next_purge_continues(
    bench: Bench, settings: Settings
) -> None:
    # The time for the purge is over after one step of each of the five kinds of rows.
    times = iter([0.0] + [1.0] * 5 + [MOST_SECONDS])
    purged = purge(bench.looking, settings, {TOPIC: WEEK}, clock=lambda: next(times))
    assert purged == Purged({"calls": 10, "dead letters": 10, IDENTITIES: 25}, {}, more=True)
    assert run_purge(bench, settings) == {"calls": 15, "dead letters": 15}
    assert bench.look(f"SELECT count(*) FROM sluice.outbox_events WHERE queue = '{QUEUE}'") == [(25,)]


@pytest.mark.usefixtures("old_rows")
@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("executed_side_effects", "calls"),
        ("dead_letters", "dead letters"),
        ("processed_events", IDENTITIES),
    ],
)
@pytest.mark.parametrize("locked", [True, False], ids=["slow", "refused"])
def test_a_slow_or_failed_kind_does_not_stop_the_purge_of_other_kinds(
    bench: Bench, settings: Settings, table: str, kind: str, locked: bool
) -> None:
    bench.looking.command("SET statement_timeout = '300ms'")
    if locked:
        bench.session.command(f"BEGIN; SELECT FROM sluice.{table} FOR UPDATE")
    else:
        bench.look(
            f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END';"
            f"CREATE TRIGGER refuse BEFORE DELETE ON sluice.{table} FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    purged = purge(bench.looking, settings, {TOPIC: WEEK})
    assert set(purged.failed) >= {kind}
    assert purged.gone == {
        other: 25 for other in ("calls", "dead letters", IDENTITIES) if other not in purged.failed
    }
    assert len(purged.failed) <= 2, (
        "besides this kind, only call arguments may fail, because they are in the table of the calls"
    )


@pytest.mark.usefixtures("old_rows")
def test_a_lost_connection_ends_the_purge(bench: Bench, settings: Settings) -> None:
    bench.session.command(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        f" AND pid = {bench.looking.connection.info.backend_pid}"
    )
    with pytest.raises(psycopg2.OperationalError):
        purge(bench.looking, settings, {TOPIC: WEEK})


def test_a_pass_reads_each_page_of_identities_one_time(
    bench: Bench, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention_module, "PAGES", 2)
    bench.look(
        "INSERT INTO sluice.processed_events SELECT gen_random_uuid(), 'e', gen_random_uuid(), 'applied',"
        f" '{TOPIC}', 'id', 0, n, {OLD} FROM generate_series(1, 600) n"
    )
    read: list[int] = []
    purging = retention.purge_identities

    def noting(session: Any, topic: str, age: float, pages: range) -> int:
        read.extend(pages)
        return purging(session, topic, age, pages)

    monkeypatch.setattr(retention, "purge_identities", noting)
    assert run_purge(bench, settings) == {f"identities of {TOPIC}": 600}
    assert len(read) == len(set(read)) >= retention.count_identity_pages(bench.looking) > 2


@pytest.mark.parametrize(("begin", "first"), [(0.0, 0), (0.5, 128), (0.99, 256)])
def test_a_pass_begins_anywhere_and_reaches_all_pages(begin: float, first: int) -> None:
    found = page_ranges(300, begin)
    assert found[0].start == first
    assert sorted(one.start for one in found) == [0, 128, 256]
    assert page_ranges(0, begin) == deque()


def test_identities_are_found_by_their_pages(bench: Bench, database_url: str, settings: Settings) -> None:
    bench.apply(slice_of([thing_set(n, f"k{n}") for n in range(25)]))
    session = RecordingSession(database_url, application_name="test purge", plans=PURGE_PLANS)
    session.ran = []
    purge(session, settings, {TOPIC: WEEK})
    [(statement, values)] = [one for one in session.ran if one[0].name == "purge_identities"]
    assert "Tid Range Scan" in str(session.explain(statement, values))
    session.close()
