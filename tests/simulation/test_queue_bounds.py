"""Several bridges and slow workers: lists stay short, and only lost messages are published again."""

from collections.abc import Iterator
from random import Random

import pytest
import structlog

from sluice.bridge import inflight, queue_buffer, send_loop
from sluice.bridge.queue_buffer import MAX_MESSAGES, SHORT_MESSAGES
from tests.mutants import mutated
from tests.simulation.queue_simulation import QueueSimulation


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.mark.parametrize("work_seconds", [0.01, 2.0, 10.0])
def test_without_losses_no_record_is_published_again(work_seconds: float) -> None:
    simulation = QueueSimulation([8.0, 8.0], work_seconds=work_seconds)
    simulation.run(100.0)
    assert simulation.settle(400.0)
    assert simulation.published_records == simulation.read.total()
    assert simulation.longest <= SHORT_MESSAGES + 1, "a bridge sends small messages only to a short list"


def test_large_backlogs_respect_the_bound_and_do_not_block_another_bridge() -> None:
    simulation = QueueSimulation([1_500.0, 1_500.0, 4.0], work_seconds=0.5)
    simulation.run(30.0)
    assert simulation.read.total() > simulation.done.total() + 5_000, "the workers cannot keep up"
    assert simulation.done[2] > 0.5 * simulation.read[2], "the third bridge is not blocked"
    assert simulation.longest <= MAX_MESSAGES + 2
    assert simulation.published_records < simulation.read.total()


@pytest.mark.parametrize("seed", range(3))
def test_with_losses_all_records_are_applied_within_the_bounds(seed: int) -> None:
    rng = Random(seed)
    simulation = QueueSimulation([60.0, 60.0, 200.0], work_seconds=rng.choice([0.05, 1.0]))
    simulation.run(30.0, lambda: simulation.lose_one(rng) if rng.random() < 0.05 else None)
    assert simulation.settle(1_000.0)
    assert simulation.longest <= 2 * MAX_MESSAGES


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("elif message.id in found.on_list:", "elif False:"),
        ("if message.id in found.in_hand:", "if False:"),
        ("if waiting.messages >= bounds * MAX_MESSAGES or", "if"),
        ("bounds = 1 if unapplied else 2", "bounds = 1"),
        ("not (is_long and unapplied)", "True"),
        ("                reasons[lane] = Resend.SILENT", "                pass"),
    ],
)
def test_a_mutant_of_the_bounds_is_found(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    mutant = mutated(queue_buffer, old, new)
    monkeypatch.setattr(inflight, "QueueBuffer", mutant.QueueBuffer)
    monkeypatch.setattr(send_loop, "Resend", mutant.Resend)
    with pytest.raises(AssertionError):  # noqa: PT012
        test_without_losses_no_record_is_published_again(10.0)
        test_large_backlogs_respect_the_bound_and_do_not_block_another_bridge()
        test_with_losses_all_records_are_applied_within_the_bounds(0)
