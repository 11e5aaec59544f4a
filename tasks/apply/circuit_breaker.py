"""Decides if so many events die that the deployment must be at fault, not the events. Pure."""

from dataclasses import dataclass

SUCCEEDED, FAILED = ".", "x"
WINDOW = 200  # number of recent tried events that count
FEWEST_DEATHS = 20  # with fewer, some poison events after a quiet night would halt the queue


@dataclass(frozen=True, slots=True)
class BreakerState:
    """The queue's failure window after a batch, the deaths still accepted, and the decision to halt."""

    failure_window: str
    accepted_deaths: int
    halts: bool


def judge_batch(failure_window: str, batch: str, accepted_deaths: int) -> BreakerState:
    """Judges a batch (one character per tried event) over the queue's last WINDOW tried events.

    Deaths that an operator accepted beforehand leave no trace in the window.
    """
    forgiven = min(accepted_deaths, batch.count(FAILED))
    window = (failure_window + batch.replace(FAILED, "", forgiven))[-WINDOW:]
    deaths = window.count(FAILED)
    died_now = batch.count(FAILED) > forgiven
    halts = died_now and deaths >= FEWEST_DEATHS and deaths * 2 > len(window)
    return BreakerState(window, accepted_deaths - forgiven, halts)
