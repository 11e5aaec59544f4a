"""Which due calls the dispatcher publishes, on a real Postgres, and when again."""

import re

import pytest
import structlog

from sluice.tasks.effects.call_states import AGAIN_AFTER_SECONDS, LEFT_AFTER_SECONDS
from sluice.tasks.effects.dispatcher import MAX_WAITING, SERVED_SECONDS, Dispatcher
from sluice.tasks.fold.registry import Registry
from tests.db.living import add_process, end_process
from tests.db.tasks import calling
from tests.db.tasks.calling import NOT_SENT, REFUSED, Bench

bench, quiet = calling.bench, calling.quiet


class Told:
    """A dispatcher, and what it published."""

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
        """What is dispatched now, when what workers declare is read again."""
        self.published.clear()
        self.now += SERVED_SECONDS
        assert self.dispatcher.run_once() == len(self.published)
        return list(self.published)


@pytest.fixture
def told(bench: Bench) -> Told:
    add_process(bench.looking, effects=bench.registry.effects, queues=["effects"])
    return Told(bench)


def test_due_calls_are_dispatched_oldest_first_and_each_once(bench: Bench, told: Told) -> None:
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
    assert told.run() == ["b", "a", "c"]
    assert told.run() == []


def dispatched_before(bench: Bench, seconds: float) -> None:
    bench.look(f"UPDATE sluice.executed_side_effects SET dispatched_at = now() - interval '{seconds} s'")


def test_a_message_that_may_be_lost_is_sent_again_after_a_while(bench: Bench, told: Told) -> None:
    bench.add("c")
    assert told.run() == ["c"]
    dispatched_before(bench, AGAIN_AFTER_SECONDS - 5)
    assert told.run() == []
    dispatched_before(bench, AGAIN_AFTER_SECONDS + 1)
    assert told.run() == ["c"]


def test_after_a_failure_a_call_is_dispatched_as_soon_as_it_is_due(bench: Bench, told: Told) -> None:
    bench.add("c")
    assert told.run() == ["c"]
    bench.run("c", NOT_SENT)
    assert told.run() == []
    bench.look("UPDATE sluice.executed_side_effects SET due_at = now()")
    assert told.run() == ["c"]


def test_no_more_are_dispatched_than_the_list_takes(bench: Bench, told: Told) -> None:
    for key in ("a", "b", "c"):
        bench.add(key, entity_key=key)
    for waiting, expected in ((MAX_WAITING + 1, 0), (MAX_WAITING, 0), (MAX_WAITING - 2, 2), (0, 1)):
        told.waiting = waiting
        assert len(told.run()) == expected


def test_what_may_not_go_is_not_dispatched(bench: Bench, told: Told) -> None:
    bench.add("u", effect="undeclared")
    bench.add("a", "behind", effect="strict")
    bench.add("x", "y", effect="mail", entity_key=None)
    bench.pause()
    assert told.run() == []
    bench.resume()
    assert told.run() == ["a", "x", "y"]
    bench.run("a", REFUSED)
    assert told.run() == [], "the effect holds"
    bench.look("UPDATE sluice.executed_side_effects SET state = 'succeeded' WHERE effect_key = 'a'")
    assert told.run() == ["behind"]


def test_what_the_broker_did_not_take_is_dispatched_again_after_a_while(bench: Bench, told: Told) -> None:
    bench.add("a", entity_key="1")
    bench.add("b", entity_key="2")

    def fail(key: str) -> None:
        raise OSError("Redis is away")

    cut_off = Dispatcher(bench.open(), bench.registry, publish=fail, count_waiting=lambda: 0)
    with pytest.raises(OSError, match="away"):
        cut_off.run_once()
    assert told.run() == []
    dispatched_before(bench, AGAIN_AFTER_SECONDS + 1)
    assert told.run() == ["a", "b"]


def test_without_a_worker_that_declares_effects_the_list_is_not_measured(bench: Bench) -> None:
    add_process(bench.looking)
    bench.add("c")
    dispatcher = Dispatcher(
        bench.open(), bench.registry, publish=pytest.fail, count_waiting=lambda: pytest.fail("asked")
    )
    assert dispatcher.run_once() == 0


def test_calls_go_to_living_workers_that_declare_them_whatever_the_relay_declares(bench: Bench) -> None:
    new = add_process(bench.looking, effects=["new"])
    told = Told(bench)
    bench.add("n", effect="new")
    bench.add("p", effect="pay")
    assert told.run() == ["n"], "no worker declares pay"
    dispatched_before(bench, AGAIN_AFTER_SECONDS + 1)
    end_process(bench.looking, new)
    assert told.run() == [], "the worker that declared it is dead"


def test_only_workers_for_calls_count_if_there_are_any(bench: Bench) -> None:
    add_process(bench.looking, effects=["pay", "mail"], queues=["relay"])
    add_process(bench.looking, effects=["mail"])
    told = Told(bench)
    bench.add("p", effect="pay")
    assert told.run() == ["p"], "no worker names the queue: all count"
    dispatched_before(bench, AGAIN_AFTER_SECONDS + 1)
    add_process(bench.looking, effects=["mail"], queues=["effects"])
    assert told.run() == [], "the one worker that makes calls does not declare pay"


def test_a_relay_that_does_not_know_whether_an_effect_holds_leaves_that_to_the_executor(bench: Bench) -> None:
    bench.add("a", "behind", effect="strict")
    bench.run("a", REFUSED)
    add_process(bench.looking, effects=["strict"])
    told = Told(bench)
    told.dispatcher = Dispatcher(
        bench.open(), Registry(), publish=told.published.append, count_waiting=lambda: 0
    )
    assert told.run() == ["behind"]
    bench.run("behind")
    assert (bench.state("behind"), len(bench.called)) == ("pending", 1)


def test_a_call_that_a_worker_left_is_soon_dispatched_to_another(bench: Bench) -> None:
    add_process(bench.looking, effects=["new"])
    told = Told(bench)
    bench.add("n", effect="new")
    assert told.run() == ["n"]
    bench.executor.run("n")
    assert told.run() == [], "not at once: the same worker may get it again"
    bench.look(
        "UPDATE sluice.executed_side_effects"
        f" SET dispatched_at = dispatched_at - interval '{LEFT_AFTER_SECONDS} s'"
    )
    assert told.run() == ["n"]


def test_calls_that_nobody_declares_make_the_dispatch_of_others_no_dearer(bench: Bench, told: Told) -> None:
    bench.look(
        "INSERT INTO sluice.executed_side_effects"
        " (effect_key, effect, identity, entity, entity_key, fingerprint, explicit_once, due_at)"
        " SELECT 'u' || n, 'undeclared', gen_random_uuid(), 'e', 'u' || n, gen_random_uuid(), false,"
        " now() - interval '1 day' FROM generate_series(1, 20000) n"
    )
    bench.add("c")
    assert told.run() == ["c"]
    dispatched_before(bench, AGAIN_AFTER_SECONDS + 1)
    with bench.sessions[-1].connection.cursor() as cursor:
        cursor.execute(
            "EXPLAIN (ANALYZE, BUFFERS) EXECUTE dispatch_calls ('{mail,pay}', '{}', 30, 500, 1, 2000)"
        )
        plan = "\n".join(row[0] for row in cursor.fetchall())
    pages = re.search(r"shared hit=(\d+)", plan)
    assert pages is not None
    assert int(pages[1]) < 100, plan


def test_a_call_of_a_newer_format_is_left_and_logged_once_a_minute(bench: Bench, told: Told) -> None:
    bench.add("newer", entity_key="1")
    bench.add("c", entity_key="2")
    bench.look("UPDATE sluice.executed_side_effects SET format = 3 WHERE effect_key = 'newer'")
    with structlog.testing.capture_logs() as logged:
        assert [told.run(), told.run()] == [["c"], []]
        bench.run("newer")
    assert bench.called == []
    assert [line["event"] for line in logged] == [
        "calls of a newer format left to newer workers",
        "call left to another worker",
    ]
