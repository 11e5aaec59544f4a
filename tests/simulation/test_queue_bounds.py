"""What several bridges publish to queues with slow workers: nothing again without a loss, and short lists."""

from collections.abc import Iterator
from random import Random

import pytest
import structlog

from sluice.bridge import inflight, queue_buffer, send_loop
from sluice.bridge.queue_buffer import MAX_MESSAGES, SHORT_MESSAGES
from tests.mutants import mutated
from tests.simulation.queue_world import QueueWorld


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


@pytest.mark.parametrize("work_seconds", [0.01, 2.0, 10.0])
def test_without_a_loss_nothing_is_published_again(work_seconds: float) -> None:
    world = QueueWorld([8.0, 8.0], work_seconds=work_seconds)
    world.play(100.0)
    assert world.settle(400.0)
    assert world.published_records == world.read.total()
    assert world.longest <= SHORT_MESSAGES + 1, "small messages wait on a list that is not short"


def test_backlogs_keep_to_the_bound_and_let_another_bridge_in() -> None:
    world = QueueWorld([600.0, 600.0, 4.0], work_seconds=0.5)
    world.play(30.0)
    assert world.read.total() > world.done.total() + 5_000, "the workers cannot keep up"
    assert world.done[2] > 0.5 * world.read[2], "the third bridge gets its turns"
    assert world.longest <= MAX_MESSAGES + 2
    assert world.published_records < world.read.total()


@pytest.mark.parametrize("seed", range(3))
def test_with_losses_all_is_applied_and_the_bounds_hold(seed: int) -> None:
    rng = Random(seed)
    world = QueueWorld([60.0, 60.0, 200.0], work_seconds=rng.choice([0.05, 1.0]))
    world.play(30.0, lambda: world.lose_one(rng) if rng.random() < 0.05 else None)
    assert world.settle(1_000.0)
    assert world.longest <= 2 * MAX_MESSAGES


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("elif message.id in found.on_list:", "elif False:"),
        ("if message.id in found.in_hand:", "if False:"),
        ("if waiting.messages >= bounds * MAX_MESSAGES or", "if"),
        ("bounds = 1 if unapplied else 2", "bounds = 1"),
        ("(waiting.messages < SHORT_MESSAGES or not unapplied)", "True"),
        ("                reasons[lane] = Resend.SILENT", "                pass"),
    ],
)
def test_a_mutant_of_the_bounds_is_found(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    mutant = mutated(queue_buffer, old, new)
    monkeypatch.setattr(inflight, "QueueBuffer", mutant.QueueBuffer)
    monkeypatch.setattr(send_loop, "Resend", mutant.Resend)
    with pytest.raises(AssertionError):  # noqa: PT012
        test_without_a_loss_nothing_is_published_again(10.0)
        test_backlogs_keep_to_the_bound_and_let_another_bridge_in()
        test_with_losses_all_is_applied_and_the_bounds_hold(0)
