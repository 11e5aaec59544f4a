"""Decides which events must not run again because a process ended in their handlers. Pure."""

from collections.abc import Iterable, Mapping

from sluice.db.apply.handler_deaths import HandlerDeaths
from sluice.runtime.handler_watch import HandlerTimedOut
from sluice.runtime.place import EventPlace, Place
from sluice.tasks.events.event_fault import EventFault

DEATHS_OF_LETTER = 3
"""After so many deaths, the event becomes a dead letter. Random kills rarely hit one event so often."""


class HandlerEndedProcess(Exception):
    """The error of a dead letter: the handlers of its event ended the process repeatedly."""


def find_fault(deaths: HandlerDeaths) -> EventFault | None:
    """Returns the reason why an event must not run again, None if it may.

    One kill by a supervisor is enough: the supervisor measured that the handler exceeded the limit.
    """
    times = "once" if deaths.deaths == 1 else f"{deaths.deaths} times"
    if deaths.timed_out:
        return EventFault(
            HandlerTimedOut.__name__,
            "the handlers of this event ran for longer than SLUICE_HANDLER_SECONDS in code that Python cannot"
            f" interrupt, and their process was killed ({times}); make them faster, or raise the limit",
        )
    if deaths.deaths < DEATHS_OF_LETTER:
        return None
    return EventFault(
        HandlerEndedProcess.__name__,
        f"the process ended {times} while it ran the handlers of this event, most recently by {deaths.how}",
    )


def passed(
    deaths: Iterable[EventPlace], topic_ids: Mapping[str, str], applied: Mapping[Place, int]
) -> list[EventPlace]:
    """Returns the places that the lanes have passed, and places in topics that were created again."""
    return [
        place
        for place in deaths
        if topic_ids.get(place.topic) != place.topic_id
        or place.offset <= applied.get((place.topic, place.partition), -1)
    ]
