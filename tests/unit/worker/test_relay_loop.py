"""The relay loses no notification, regardless of when other processes commit. Every run of the relay ends."""

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
    """A simulation of a relay and of processes that commit a record and notify the relay at given steps."""

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
        """Lets the other processes commit before the next step of the relay."""
        while self.commits and self.commits[0] <= self.step:
            self.commits.pop(0)
            self.commit()
        self.step += 1

    def commit(self) -> None:
        """Commits a record, then notifies the relay. Between the two, the relay may do any step."""
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
        """Handles one call of the relay."""
        self.calls -= 1
        kind(self, send=self.send, dispatch=self.dispatch, clock=lambda: self.now, sleep=self.sleep).run()


def run_until_idle(commits: list[int], kind: type[RelayLoop] = RelayLoop) -> World:
    """Runs the relay as long as there are calls. No record may wait afterwards."""
    world = World(commits)
    world.commit()
    while world.calls:
        world.run_relay(kind)
        # Later commits take place while no relay runs.
        world.step = max(world.step, world.commits[0]) if world.commits and not world.calls else world.step
        if not world.calls:
            world.doing()
    return world


@given(st.lists(st.integers(0, STEPS), max_size=20))
def test_every_record_is_sent_for_every_order_of_steps(commits: list[int]) -> None:
    world = run_until_idle(commits)
    assert world.waiting == 0
    assert world.sent == len(commits) + 1


def test_a_mutant_that_does_not_send_again_after_the_release_loses_a_record() -> None:
    mutant = mutated(
        relay_loop,
        "        self._dispatch()\n        if self._send():\n            self._wakeup.notify()\n",
        "",
    )
    lost = [step for step in range(STEPS) if run_until_idle([step], mutant.RelayLoop).waiting]
    assert lost, "no step shows the lost record"


@pytest.mark.parametrize(
    ("sends", "seconds"),
    [
        (lambda _now: 0, LINGER_SECONDS),
        (lambda now: 1 if now < 0.5 else 0, 0.5 + LINGER_SECONDS),
        (lambda _now: 1, STAY_SECONDS),
    ],
)
def test_the_relay_runs_while_records_arrive_and_then_ends(
    sends: Callable[[float], int], seconds: float
) -> None:
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
    assert world.calls == (1 if seconds == STAY_SECONDS else 0), (
        "the relay is called again only if records may remain"
    )
    gaps = [later - earlier for earlier, later in zip(world.dispatched, world.dispatched[1:], strict=False)]
    assert all(gap >= DISPATCH_SECONDS - LOOK_SECONDS for gap in gaps[:-1])


def test_the_relay_does_not_pause_after_a_full_page() -> None:
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


def test_the_wakeup_is_released_even_after_an_error() -> None:
    world = World([])

    def broken() -> int:
        raise RuntimeError("Postgres is away")

    with pytest.raises(RuntimeError):
        RelayLoop(
            world, send=broken, dispatch=world.dispatch, clock=lambda: world.now, sleep=world.sleep
        ).run()
    assert not world.held
