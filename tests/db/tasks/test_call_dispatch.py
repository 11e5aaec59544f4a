"""Which due calls the dispatcher publishes, on a real Postgres, and when again."""

import pytest

from sluice.tasks.api import EffectDeclaration
from sluice.tasks.effects.dispatcher import AGAIN_AFTER_SECONDS, MAX_WAITING, Dispatcher
from sluice.tasks.fold.registry import Registry
from tests.db.tasks import calling
from tests.db.tasks.calling import NOT_SENT, REFUSED, Bench

bench, quiet = calling.bench, calling.quiet


class Told:
    """A dispatcher, and what it published."""

    def __init__(self, bench: Bench) -> None:
        self.published: list[tuple[str, str]] = []
        self.waiting = 0
        self.dispatcher = Dispatcher(
            bench.open(), bench.registry, publish=self.publish, count_waiting=lambda: self.waiting
        )

    def publish(self, key: str, declaration: EffectDeclaration) -> None:
        self.published.append((key, declaration.name))

    def run(self) -> list[str]:
        """What is dispatched now."""
        self.published.clear()
        assert self.dispatcher.run_once() == len(self.published)
        return [key for key, _ in self.published]


@pytest.fixture
def told(bench: Bench) -> Told:
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
    assert told.published[0] == ("b", "pay")
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

    def fail(key: str, declaration: EffectDeclaration) -> None:
        raise OSError("Redis is away")

    cut_off = Dispatcher(bench.open(), bench.registry, publish=fail, count_waiting=lambda: 0)
    with pytest.raises(OSError, match="away"):
        cut_off.run_once()
    assert told.run() == []
    dispatched_before(bench, AGAIN_AFTER_SECONDS + 1)
    assert told.run() == ["a", "b"]


def test_without_effects_nobody_is_asked(bench: Bench) -> None:
    dispatcher = Dispatcher(
        bench.open(), Registry(), publish=lambda *_: None, count_waiting=lambda: pytest.fail("asked")
    )
    assert dispatcher.run_once() == 0
