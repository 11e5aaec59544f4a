"""Tests how deadlines grow with the slowness of a machine."""

import pytest

from sluice.stack.patience import LONGEST_FACTOR, REFERENCE_SECONDS, patient, slowness


@pytest.mark.parametrize(
    ("cpu_seconds", "load_per_core", "factor"),
    [
        (REFERENCE_SECONDS, 0.0, 1.0),
        (REFERENCE_SECONDS / 2, 0.5, 1.0),  # never shorter than on the reference machine
        (REFERENCE_SECONDS * 3, 0.2, 3.0),
        (REFERENCE_SECONDS, 4.0, 4.0),
        (REFERENCE_SECONDS * 2, 3.0, 6.0),
        (REFERENCE_SECONDS * 100, 100.0, LONGEST_FACTOR),
    ],
)
def test_the_factor_grows_with_a_slow_cpu_and_with_a_high_load(
    cpu_seconds: float, load_per_core: float, factor: float
) -> None:
    assert slowness(cpu_seconds=cpu_seconds, load_per_core=load_per_core) == pytest.approx(factor)


def test_a_deadline_is_never_shorter_than_requested_and_always_bounded() -> None:
    assert 2.0 <= patient(2.0) <= 2.0 * LONGEST_FACTOR
