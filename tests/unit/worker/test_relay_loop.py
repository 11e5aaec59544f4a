"""A run of the relay loses no notification, whenever others commit; and it ends."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.worker import relay_loop
from sluice.worker.relay_loop import (
    DISPATCH_SECONDS,
    FULL_RECORDS,
    LINGER_SECONDS,
    LOOK_SECONDS,
    STAY_SECONDS,
    RelayLoop,
)
from tests.mutants import mutated

STEPS = 40


class World:
    """One relay, and others that commit a record and notify it at given steps."""

    def __init__(self, commits: list[int]) -> None:
        self.commits = sorted(commits)
        self.step = 0
        self.now = 0.0
        self.waiting = 0
        self.sent = 0
        self.held = False
        self.calls = 0
        self.dispatched: list[float] = []

    def doing(self) -> None:
        """Others have their turn before each of the relay's steps."""
        while self.commits and self.commits[0] <= self.step:
            self.commits.pop(0)
            self.commit()
        self.step += 1

    def commit(self) -> None:
        """A record, and then the notification: between the two the relay may do anything."""
        self.waiting += 1
        if not self.held:
            self.notify()

    def notify(self) -> None:
        if not self.held:
            self.held = True
            self.calls += 1

    def hold(self, milliseconds: int) -> None:
        self.doing()
        self.held = True

    def release(self) -> None:
        self.doing()
        self.held = False

    def send(self) -> int:
        self.doing()
        sent, self.waiting = self.waiting, 0
        self.sent += sent
        return sent

    def dispatch(self) -> None:
        self.dispatched.append(self.now)

    def sleep(self, seconds: float) -> None:
        self.doing()
        self.now += seconds

    def run_relay(self, kind: type[RelayLoop] = RelayLoop) -> None:
        """What follows a call."""
        self.calls -= 1
        kind(self, send=self.send, dispatch=self.dispatch, clock=lambda: self.now, sleep=self.sleep).run()


def play(commits: list[int], kind: type[RelayLoop] = RelayLoop) -> World:
    """Runs as long as it is notified; then nothing may wait."""
    world = World(commits)
    world.commit()
    while world.calls:
        world.run_relay(kind)
        # Those who commit later, when nobody is there.
        world.step = max(world.step, world.commits[0]) if world.commits and not world.calls else world.step
        if not world.calls:
            world.doing()
    return world


@given(st.lists(st.integers(0, STEPS), max_size=20))
def test_whenever_others_commit_everything_is_sent(commits: list[int]) -> None:
    world = play(commits)
    assert world.waiting == 0
    assert world.sent == len(commits) + 1


def test_a_last_look_before_the_release_would_lose_a_call() -> None:
    mutant = mutated(
        relay_loop,
        "        self._dispatch()\n        if self._send():\n            self._wakeup.notify()\n",
        "",
    )
    lost = [step for step in range(STEPS) if play([step], mutant.RelayLoop).waiting]
    assert lost, "no moment shows it"


@pytest.mark.parametrize(
    ("sends", "seconds"),
    [
        (lambda _now: 0, LINGER_SECONDS),
        (lambda now: 1 if now < 0.5 else 0, 0.5 + LINGER_SECONDS),
        (lambda _now: 1, STAY_SECONDS),
    ],
)
def test_it_stays_while_something_comes_and_no_longer(sends: Callable[[float], int], seconds: float) -> None:
    world = World([])
    loop = RelayLoop(
        world,
        send=lambda: sends(world.now),
        dispatch=world.dispatch,
        clock=lambda: world.now,
        sleep=world.sleep,
    )
    loop.run()
    assert seconds <= world.now <= seconds + 2 * LOOK_SECONDS
    assert world.calls == (1 if seconds == STAY_SECONDS else 0), "called again where there was more"
    gaps = [later - earlier for earlier, later in zip(world.dispatched, world.dispatched[1:], strict=False)]
    assert all(gap >= DISPATCH_SECONDS - LOOK_SECONDS for gap in gaps[:-1])


def test_behind_a_full_page_it_does_not_pause() -> None:
    world, pages = World([]), [FULL_RECORDS] * 5
    loop = RelayLoop(
        world,
        send=lambda: pages.pop() if pages else 0,
        dispatch=world.dispatch,
        clock=lambda: world.now,
        sleep=world.sleep,
    )
    loop.run()
    assert world.now <= LINGER_SECONDS + 2 * LOOK_SECONDS


def test_the_bell_is_released_whatever_happens() -> None:
    world = World([])

    def broken() -> int:
        raise RuntimeError("Postgres is away")

    with pytest.raises(RuntimeError):
        RelayLoop(
            world, send=broken, dispatch=world.dispatch, clock=lambda: world.now, sleep=world.sleep
        ).run()
    assert not world.held
