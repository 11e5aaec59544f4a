"""The timetable of beat: which tasks are due."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sluice.worker.schedule import Periodic, Timetable

OFTEN, SELDOM = Periodic("often", "q", 1.0), Periodic("seldom", "q", 3_600.0)


def test_all_tasks_are_due_at_the_start_in_the_order_of_the_schedule() -> None:
    timetable = Timetable([OFTEN, SELDOM])
    assert timetable.due(0.0) == [OFTEN, SELDOM]
    assert timetable.seconds_left(0.0) == 0.0


@given(st.lists(st.integers(1, 500), min_size=1, max_size=200))
def test_a_task_is_due_once_per_interval_for_any_wake_up_times_of_beat(pauses: list[int]) -> None:
    timetable, now, started = Timetable([OFTEN]), 0.0, []
    for pause in pauses:
        if timetable.due(now):
            started.append(now)
            timetable.postpone(OFTEN, now + OFTEN.seconds)
        assert 0.0 <= timetable.seconds_left(now) <= OFTEN.seconds
        now += pause / 128
    intervals = [later - earlier for earlier, later in pairwise(started)]
    assert all(OFTEN.seconds <= interval <= OFTEN.seconds + max(pauses) / 128 for interval in intervals)
