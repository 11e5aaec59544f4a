"""Windows hold the events that were sent in them."""

from bench.snapshot import RATE, Reading, windows_of


def test_each_window_has_the_delays_and_the_cost_of_its_own_events() -> None:
    waits = [0.010] * RATE + [0.020] * RATE + [0.030] * 2 * RATE
    readings = [
        Reading(100.0, 7.0),
        Reading(101.0, 7.1),
        Reading(102.0, 7.3),
        Reading(104.0, 7.9),
        Reading(105.0, 8.0),  # later than the last event
    ]
    before, first, second = windows_of(readings, 100.0, waits)
    assert (before.held_seconds, first.held_seconds, second.held_seconds) == (0, 1, 3)
    assert [round(one.p50_ms) for one in (before, first, second)] == [10, 20, 30]
    assert [round(one.postgres_us) for one in (before, first, second)] == [100, 200, 300]
