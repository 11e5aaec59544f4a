"""The dispatcher on a real Postgres: the due calls that it publishes, and calls that it publishes again."""

import re

import pytest
import structlog

from sluice.tasks.effects.call_states import AGAIN_AFTER_SECONDS, LEFT_AFTER_SECONDS
from sluice.tasks.effects.dispatcher import LOOK_SECONDS, MAX_WAITING, SERVED_SECONDS, Dispatcher
from sluice.tasks.fold.registry import Registry
from sluice.tasks.installation.formats import NEWEST_FORMAT
from tests.db.living import add_process, end_process
from tests.db.tasks import calling
from tests.db.tasks.calling import NOT_SENT, REFUSED, Bench

bench, quiet = calling.bench, calling.quiet


class Dispatching:
    """A dispatcher, and the keys of the calls that it published."""

    def __init__(self, bench: Bench) -> None:
        self.published: list[str] = []
        self.waiting = 0
        self.now = 0.0
        self.dispatcher = Dispatcher(
            bench.open(),
            bench.registry,
            publish=self.published.append,
            count_waiting=lambda: self.waiting,
            clock=lambda: self.now,
        )

    def run(self) -> list[str]:
        """Reads the declarations of the workers again, and returns the keys that are then dispatched."""
        self.published.clear()
        self.now += SERVED_SECONDS
        assert self.dispatcher.run_once() == len(self.published)
        return list(self.published)


@pytest.fixture
def dispatching(bench: Bench) -> Dispatching:
    add_process(bench.looking, effects=bench.registry.effects, queues=["effects"])
    return Dispatching(bench)


def test_due_calls_are_dispatched_oldest_first_and_only_once(bench: Bench, dispatching: Dispatching) -> None:
    for number, key in enumerate(("c", "a", "b")):
        bench.add(key, entity_key=key)
        bench.look(
            f"UPDATE sluice.executed_side_effects SET due_at = now() - interval '{number} s'"
            f" WHERE effect_key = '{key}'"
        )
    bench.add("later", effect="mail")
    bench.look(
        "UPDATE sluice.executed_side_effects SET due_at = now() + interval '9 s' WHERE effect = 'mail'"
    )
    assert dispatching.run() == ["b", "a", "c"]
    assert dispatching.run() == []


def dispatched_before(bench: Bench, seconds: float) -> None:
    bench.look(f"UPDATE sluice.executed_side_effects SET dispatched_at = now() - interval '{seconds} s'")


def test_a_message_that_may_be_lost_is_sent_again_after_a_while(
    bench: Bench, dispatching: Dispatching
) -> None:
    bench.add("c")
    assert dispatching.run() == ["c"]
    dispatched_before(bench, AGAIN_AFTER_SECONDS - 5)
    assert dispatching.run() == []
    dispatched_before(bench, AGAIN_AFTER_SECONDS + 1)
    assert dispatching.run() == ["c"]


def test_after_a_failure_a_call_is_dispatched_as_soon_as_it_is_due(
    bench: Bench, dispatching: Dispatching
) -> None:
    bench.add("c")
    assert dispatching.run() == ["c"]
    bench.run("c", NOT_SENT)
    assert dispatching.run() == []
    bench.look("UPDATE sluice.executed_side_effects SET due_at = now()")
    assert dispatching.run() == ["c"]


def late_call(bench: Bench, key: str, **more: str) -> None:
    """Adds a call as a transaction does that is committed long after its start."""
    bench.add(key, entity_key=key, **more)
    bench.look(
        "UPDATE sluice.executed_side_effects SET due_at = now() - interval '1 min'"
        f" WHERE effect_key = '{key}'"
    )


def test_a_call_that_becomes_visible_late_is_dispatched_at_the_next_complete_look(
    bench: Bench, dispatching: Dispatching
) -> None:
    assert dispatching.run() == []
    late_call(bench, "late")
    bench.add("new", entity_key="new")
    assert dispatching.run() == ["new"]
    dispatching.now += LOOK_SECONDS
    assert dispatching.run() == ["late"]


def test_waiting_calls_of_any_age_are_dispatched_as_soon_as_they_may_begin(
    bench: Bench, dispatching: Dispatching
) -> None:
    late_call(bench, "waits")
    bench.pause()
    for _ in range(3):
        assert dispatching.run() == []
    bench.resume()
    assert dispatching.run() == ["waits"]


def test_old_calls_of_an_effect_that_a_worker_begins_to_serve_are_dispatched_at_once(
    bench: Bench, dispatching: Dispatching
) -> None:
    late_call(bench, "old", effect="undeclared")
    assert dispatching.run() == []
    add_process(bench.looking, effects=["undeclared"], queues=["effects"])
    assert dispatching.run() == ["old"]


def test_no_more_calls_are_dispatched_than_the_list_has_room_for(
    bench: Bench, dispatching: Dispatching
) -> None:
    for key in ("a", "b", "c"):
        bench.add(key, entity_key=key)
    for waiting, expected in ((MAX_WAITING + 1, 0), (MAX_WAITING, 0), (MAX_WAITING - 2, 2), (0, 1)):
        dispatching.waiting = waiting
        assert len(dispatching.run()) == expected


def test_calls_that_may_not_begin_are_not_dispatched(bench: Bench, dispatching: Dispatching) -> None:
    bench.add("u", effect="undeclared")
    bench.add("a", "behind", effect="strict")
    bench.add("x", "y", effect="mail", entity_key=None)
    bench.pause()
    assert dispatching.run() == []
    bench.resume()
    assert dispatching.run() == ["a", "x", "y"]
    bench.run("a", REFUSED)
    assert dispatching.run() == [], "a failed call of this effect holds later calls"
    bench.look("UPDATE sluice.executed_side_effects SET state = 'succeeded' WHERE effect_key = 'a'")
    assert dispatching.run() == ["behind"]


def test_calls_that_the_broker_did_not_accept_are_dispatched_again_after_a_while(
    bench: Bench, dispatching: Dispatching
) -> None:
    bench.add("a", entity_key="1")
    bench.add("b", entity_key="2")

    def fail(key: str) -> None:
        raise OSError("Redis is unreachable")

    cut_off = Dispatcher(bench.open(), bench.registry, publish=fail, count_waiting=lambda: 0)
    with pytest.raises(OSError, match="unreachable"):
        cut_off.run_once()
    assert dispatching.run() == []
    dispatched_before(bench, AGAIN_AFTER_SECONDS + 1)
    assert dispatching.run() == ["a", "b"]


def test_the_list_is_not_measured_if_no_worker_declares_effects(bench: Bench) -> None:
    add_process(bench.looking)
    bench.add("c")
    dispatcher = Dispatcher(
        bench.open(),
        bench.registry,
        publish=pytest.fail,
        count_waiting=lambda: pytest.fail("the list was measured"),
    )
    assert dispatcher.run_once() == 0


def test_only_calls_that_a_running_worker_declares_are_dispatched(bench: Bench) -> None:
    new = add_process(bench.looking, effects=["new"])
    dispatching = Dispatching(bench)
    bench.add("n", effect="new")
    bench.add("p", effect="pay")
    assert dispatching.run() == ["n"], "no worker declares pay"
    dispatched_before(bench, AGAIN_AFTER_SECONDS + 1)
    end_process(bench.looking, new)
    assert dispatching.run() == [], "the worker that declared the effect has ended"


def test_only_workers_of_the_effects_queue_count_if_there_are_such_workers(bench: Bench) -> None:
    add_process(bench.looking, effects=["pay", "mail"], queues=["relay"])
    add_process(bench.looking, effects=["mail"])
    dispatching = Dispatching(bench)
    bench.add("p", effect="pay")
    assert dispatching.run() == ["p"], "no worker names the queue, so all workers count"
    dispatched_before(bench, AGAIN_AFTER_SECONDS + 1)
    add_process(bench.looking, effects=["mail"], queues=["effects"])
    assert dispatching.run() == [], "the one worker that makes calls does not declare pay"


def test_a_relay_that_does_not_declare_an_effect_leaves_the_order_of_calls_to_the_executor(
    bench: Bench,
) -> None:
    bench.add("a", "behind", effect="strict")
    bench.run("a", REFUSED)
    add_process(bench.looking, effects=["strict"])
    dispatching = Dispatching(bench)
    dispatching.dispatcher = Dispatcher(
        bench.open(), Registry(), publish=dispatching.published.append, count_waiting=lambda: 0
    )
    assert dispatching.run() == ["behind"]
    bench.run("behind")
    assert (bench.state("behind"), len(bench.called)) == ("pending", 1)


def test_a_call_that_a_worker_does_not_declare_is_soon_dispatched_again(bench: Bench) -> None:
    add_process(bench.looking, effects=["new"])
    dispatching = Dispatching(bench)
    bench.add("n", effect="new")
    assert dispatching.run() == ["n"]
    bench.executor.run("n")
    assert dispatching.run() == [], (
        "not dispatched again immediately, because the same worker may get the call"
    )
    bench.look(
        "UPDATE sluice.executed_side_effects"
        f" SET dispatched_at = dispatched_at - interval '{LEFT_AFTER_SECONDS} s'"
    )
    assert dispatching.run() == ["n"]


def test_undeclared_calls_do_not_slow_the_dispatch_of_other_calls(
    bench: Bench, dispatching: Dispatching
) -> None:
    bench.look(
        "INSERT INTO sluice.executed_side_effects"
        " (effect_key, effect, identity, entity, entity_key, fingerprint, explicit_once, due_at)"
        " SELECT 'u' || n, 'undeclared', gen_random_uuid(), 'e', 'u' || n, gen_random_uuid(), false,"
        " now() - interval '1 day' FROM generate_series(1, 20000) n"
    )
    bench.add("c")
    assert dispatching.run() == ["c"]
    dispatched_before(bench, AGAIN_AFTER_SECONDS + 1)
    with bench.sessions[-1].connection.cursor() as cursor:
        cursor.execute(
            "EXPLAIN (ANALYZE, BUFFERS)"
            " EXECUTE dispatch_calls ('{mail,pay}', '{}', 30, 500, 1, 2000, '-infinity', 'pending')"
        )
        plan = "\n".join(row[0] for row in cursor.fetchall())
    pages = re.search(r"shared hit=(\d+)", plan)
    assert pages is not None
    assert int(pages[1]) < 100, plan


def test_a_call_of_a_newer_format_is_skipped_and_logged_once_a_minute(
    bench: Bench, dispatching: Dispatching
) -> None:
    bench.add("newer", entity_key="1")
    bench.add("c", entity_key="2")
    bench.look(
        "UPDATE sluice.executed_side_effects SET format = %s WHERE effect_key = 'newer'", (NEWEST_FORMAT + 1,)
    )
    with structlog.testing.capture_logs() as logged:
        assert [dispatching.run(), dispatching.run()] == [["c"], []]
        bench.run("newer")
    assert bench.called == []
    assert [line["event"] for line in logged] == [
        "calls of a newer format left to newer workers",
        "call left to another worker",
    ]
