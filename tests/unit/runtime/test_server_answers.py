"""The servers that accept a login of a process."""

import threading
from collections import Counter

from sluice.runtime.server_answers import ASK_EVERY_SECONDS, ServerAnswers
from tests.waiting import wait_until

LONG_SECONDS = 60.0


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_server_is_up_again_when_it_accepts_a_login_again() -> None:
    clock, refuses = Clock(), [False]
    servers = ServerAnswers(clock)

    def log_in() -> None:
        if refuses[0]:
            raise ConnectionError("password authentication failed")

    servers.probes = {"Postgres": log_in}
    assert servers.all(LONG_SECONDS) == {"Postgres": True}
    for refuses[0] in (True, False):
        clock.now += ASK_EVERY_SECONDS
        assert servers.all(LONG_SECONDS) == {"Postgres": not refuses[0]}


def test_a_server_that_does_not_answer_delays_no_other_and_is_not_asked_again() -> None:
    clock, asked, released = Clock(), Counter[str](), threading.Event()
    servers = ServerAnswers(clock)

    def hang() -> None:
        asked["Postgres"] += 1
        released.wait(LONG_SECONDS)

    def answer() -> None:
        asked["Redis"] += 1

    servers.probes = {"Postgres": hang, "Redis": answer}
    try:
        for scrape in range(1, 4):
            wait_until(
                lambda: servers.ask(0.01) == {"Postgres": False, "Redis": True},
                timeout_seconds=10,
                what="the answer of Redis",
            )
            assert asked == Counter(Postgres=1, Redis=scrape)
            clock.now += ASK_EVERY_SECONDS
    finally:
        released.set()
    # The late answer is of the earlier question. The next question is a new login.
    wait_until(
        lambda: servers.ask(LONG_SECONDS) == {"Postgres": True, "Redis": True},
        timeout_seconds=10,
        what="the answer of Postgres",
    )


def test_a_state_that_the_process_knows_needs_no_question() -> None:
    servers = ServerAnswers(Clock())
    state: list[bool | None] = [None]
    servers.states = {"Kafka": lambda: state[0]}
    assert servers.all(LONG_SECONDS) == {}, "a server that was not used yet has no state"
    for state[0] in (False, True):
        assert servers.all(LONG_SECONDS) == {"Kafka": state[0]}
    assert servers.ask(LONG_SECONDS) == {}
