"""Decides when events die in numbers: then the deployment is wrong, not the events. Pure."""

from dataclasses import dataclass

LIVED, DIED = ".", "x"
WINDOW = 200  # tried events that are looked back upon
FEWEST_DEATHS = 20  # below it a few poison events after a quiet night would halt the queue


@dataclass(frozen=True, slots=True)
class Verdict:
    """The queue's fates after a batch, deaths still accepted, and whether the batch crosses the line."""

    recent_fates: str
    accepted_deaths: int
    halts: bool


def judge_fates(recent_fates: str, batch: str, accepted_deaths: int) -> Verdict:
    """Judges a batch (one letter per tried event) over the queue's last WINDOW tried events.

    Deaths that an operator accepted beforehand leave no trace in the window.
    """
    forgiven = min(accepted_deaths, batch.count(DIED))
    window = (recent_fates + batch.replace(DIED, "", forgiven))[-WINDOW:]
    deaths = window.count(DIED)
    died_now = batch.count(DIED) > forgiven
    halts = died_now and deaths >= FEWEST_DEATHS and deaths * 2 > len(window)
    return Verdict(window, accepted_deaths - forgiven, halts)
