"""Refusals are counted by name (for example of a command) and logged at most one time per minute."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.runtime import refusals
from sluice.runtime.refusals import LOG_INTERVAL_SECONDS, MAX_NAME_LENGTH, MAX_NAMES, OTHERS
from tests.mutants import mutated

Steps = list[tuple[str | None, float]]
STEPS = st.lists(st.tuples(st.text(max_size=60) | st.none(), st.integers(0, 90)), max_size=80)


def run(steps: Steps, module: object = refusals) -> tuple[list[float], list[dict[str, int]], int]:
    """Waits, then notes a name or flushes, for each step. Returns the times, the lines and the count."""
    now, noted = 0.0, 0
    times: list[float] = []
    lines: list[dict[str, int]] = []

    def write(counts: dict[str, int]) -> None:
        times.append(now)
        lines.append(counts)

    counted = module.Refusals(write, clock=lambda: now)  # type: ignore[attr-defined]
    for name, pause in steps:
        now += pause
        if name is None:
            counted.flush()
        else:
            noted += 1
            counted.note(name)
    now += LOG_INTERVAL_SECONDS
    counted.flush()
    return times, lines, noted


def check(times: list[float], lines: list[dict[str, int]], noted: int) -> None:
    assert sum(sum(line.values()) for line in lines) == noted
    assert all(later - earlier >= LOG_INTERVAL_SECONDS for earlier, later in pairwise(times))
    assert all(0 < len(line) <= MAX_NAMES + 1 for line in lines)
    assert all(len(name) <= MAX_NAME_LENGTH for line in lines for name in line)


@given(STEPS)
def test_every_refusal_is_counted_in_one_line_and_lines_are_a_minute_apart(steps: Steps) -> None:
    check(*run(steps))


def test_names_above_the_limit_are_counted_together() -> None:
    _, lines, _ = run([("first", 0.0), *((f"name {n}", 0.0) for n in range(100))])
    assert lines[0] == {"first": 1}
    assert lines[1][OTHERS] == 100 - MAX_NAMES


MUTANTS = {
    "no interval": ("now - self._logged_at >= LOG_INTERVAL_SECONDS", "True"),
    "long names": ("name = name[:MAX_NAME_LENGTH]", ""),
    "many names": ("name = OTHERS", "pass"),
    "overwrites counts": ("self._counts[name] += 1", "self._counts[name] = 1"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_found(mutant: str) -> None:
    copy = mutated(refusals, *MUTANTS[mutant])
    steps: Steps = [("x" * 60, 1.0), *((f"name {n // 2}", 0.0) for n in range(100))]
    with pytest.raises(AssertionError):
        check(*run(steps, copy))
