"""If the handlers of an event end their process, the event runs again, but not after the third such end."""

import re

import pytest

from sluice.db.apply.handler_deaths import HandlerDeaths
from sluice.runtime.place import EventPlace
from sluice.tasks.apply.suspects import find_fault, passed

CASES = [
    (1, False, None),
    (2, False, None),
    (3, False, ("HandlerEndedProcess", "ended 3 times .* most recently by signal SIGSEGV")),
    (7, False, ("HandlerEndedProcess", "7 times")),
    (1, True, ("HandlerTimedOut", r"SLUICE_HANDLER_SECONDS.*\(once\)")),
    (2, True, ("HandlerTimedOut", "2 times")),
    (4, True, ("HandlerTimedOut", "4 times")),
]


@pytest.mark.parametrize(("deaths", "timed_out", "expected"), CASES)
def test_an_event_becomes_a_letter_after_the_third_ended_process_or_a_time_out(
    deaths: int, timed_out: bool, expected: tuple[str, str] | None
) -> None:
    fault = find_fault(HandlerDeaths(deaths, timed_out, "signal SIGSEGV"))
    if expected is None:
        assert fault is None
    else:
        assert fault is not None
        assert fault.error_class == expected[0]
        assert re.search(expected[1], fault.text)


def test_a_record_of_ended_processes_is_obsolete_after_the_lane_passed_it_or_the_topic_changed() -> None:
    here, behind = EventPlace("t", "id", 0, 5), EventPlace("t", "id", 0, 6)
    other_lane, other_topic = EventPlace("t", "id", 1, 5), EventPlace("t", "older id", 0, 9)
    gone = EventPlace("gone", "id", 0, 1)
    deaths = [here, behind, other_lane, other_topic, gone]
    assert passed(deaths, {"t": "id"}, {("t", 0): 5}) == [here, other_topic, gone]
