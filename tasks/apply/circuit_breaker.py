"""Decides if so many events die that the deployment must be at fault, not the events. Pure."""

from dataclasses import dataclass

SUCCEEDED, FAILED = ".", "x"
WINDOW = 200  # number of recent tried events that count
FEWEST_DEATHS = 20  # with a lower limit, a few bad events after a quiet night would halt the queue


@dataclass(frozen=True, slots=True)
class BreakerState:
    """The queue's failure window after a batch, the deaths that remain accepted, and the decision to halt."""

    failure_window: str
    accepted_deaths: int
    halts: bool


def judge_batch(failure_window: str, batch: str, accepted_deaths: int) -> BreakerState:
    """Adds a batch (one character per tried event) to the queue's last WINDOW tried events, and judges them.

    Deaths that an operator accepted beforehand are not added to the window.
    """
    forgiven = min(accepted_deaths, batch.count(FAILED))
    window = (failure_window + batch.replace(FAILED, "", forgiven))[-WINDOW:]
    deaths = window.count(FAILED)
    died_now = batch.count(FAILED) > forgiven
    halts = died_now and deaths >= FEWEST_DEATHS and deaths * 2 > len(window)
    return BreakerState(window, accepted_deaths - forgiven, halts)
