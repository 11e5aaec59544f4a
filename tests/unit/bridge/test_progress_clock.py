"""The bridge reads the progress in time, and reads it only when the result may cause a change."""

from random import Random

import pytest

from sluice.bridge import progress_clock
from sluice.bridge.progress_clock import (
    BUSY_SECONDS,
    IDLE_SECONDS,
    LANES_PER_SECOND,
    WATERMARK_SECONDS,
    WHOLE_SECONDS,
    ProgressClock,
    ProgressRead,
)
from tests.mutants import mutated

STEP = 0.01


def test_every_reading_is_in_time() -> None:
    for seed in range(30):
        play(Random(seed))


def play(rng: Random) -> None:
    clock, step, read, whole = progress_clock.ProgressClock(), 0, -(10**6), -(10**6)
    for _ in range(20):
        is_busy, has_moved, is_away = (rng.random() < 0.5 for _ in range(3))
        for _ in range(rng.randrange(1, 200)):
            step += 1
            now = step * STEP
            due = clock.due(now, is_busy=is_busy, has_moved=has_moved)
            assert (due is not None) == (now >= clock.due_at(is_busy=is_busy, has_moved=has_moved))
            if due is not None:
                clock.note_tried(now)
                read = step
                if due is ProgressRead.ALL and not is_away:
                    clock.note_all(now)
                    whole = step
            assert (step - read) * STEP <= (BUSY_SECONDS if is_busy else IDLE_SECONDS) + STEP
            if not is_away:
                assert (step - whole) * STEP <= (WATERMARK_SECONDS if has_moved else WHOLE_SECONDS) + STEP


def test_many_lanes_are_read_less_often() -> None:
    for lanes in (1, 12 * 16, 12 * 256, 12 * 1_024, 500 * 1_024):
        clock, read = progress_clock.ProgressClock(), 0
        clock.note_all(0.0)
        for step in range(500):
            if clock.due(step * STEP, is_busy=True, has_moved=False, lanes=lanes):
                clock.note_tried(step * STEP)
                read += 1
        assert 5 / IDLE_SECONDS <= read <= 5 / BUSY_SECONDS + 1
        assert (read - 1) * lanes <= 5 * max(LANES_PER_SECOND, lanes / IDLE_SECONDS)
        if lanes <= LANES_PER_SECOND * BUSY_SECONDS:
            assert read >= 4.5 / BUSY_SECONDS, "few lanes are read as soon as one lane"


def test_without_changes_little_is_read() -> None:
    clock = ProgressClock()
    reads = []
    for step in range(1_000):
        due = clock.due(step * STEP, is_busy=False, has_moved=False)
        if due is not None:
            clock.note_tried(step * STEP)
            reads.append(due)
        if due is ProgressRead.ALL:
            clock.note_all(step * STEP)
    assert len(reads) <= 10 / IDLE_SECONDS + 2
    assert reads.count(ProgressRead.ALL) <= 10 / WHOLE_SECONDS + 1


def test_after_an_outage_all_lanes_are_read() -> None:
    clock = ProgressClock()
    clock.note_tried(1.0)
    clock.note_all(1.0)
    assert clock.due(1.05, is_busy=True, has_moved=True) is None
    clock.request_all()
    assert clock.due(1.05, is_busy=False, has_moved=False) is ProgressRead.ALL


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("busy_seconds(lanes) if is_busy else IDLE_SECONDS", "IDLE_SECONDS"),
        ("max(BUSY_SECONDS, lanes / LANES_PER_SECOND)", "BUSY_SECONDS"),
        ("max(BUSY_SECONDS, lanes / LANES_PER_SECOND)", "lanes / LANES_PER_SECOND"),
        ("min(max(BUSY_SECONDS, lanes / LANES_PER_SECOND), IDLE_SECONDS)", "lanes / LANES_PER_SECOND"),
        ("WATERMARK_SECONDS if has_moved else WHOLE_SECONDS", "WHOLE_SECONDS"),
        ("now >= self.all_due_at(has_moved) else", "False else"),
        ("        self._read_at = now", "        self._read_at = now + 1.0"),
    ],
)
def test_a_mutant_of_the_clock_is_found(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    mutant = mutated(progress_clock, old, new)
    mutant.ProgressRead = ProgressRead  # type: ignore[attr-defined]
    monkeypatch.setattr(progress_clock, "ProgressClock", mutant.ProgressClock)
    with pytest.raises(AssertionError):  # noqa: PT012
        test_every_reading_is_in_time()
        test_many_lanes_are_read_less_often()
