"""The limit on the number of effects that the handlers of one event yield."""

import threading
from typing import Any

import pytest

from sluice.db.records import Outcome
from sluice.tasks.api import Read
from tests.unit.tasks import limited
from tests.unit.tasks.limited import BODIES, outcomes, planned, settled
from tests.unit.tasks.scripted import INTEGER
from tests.unit.tasks.slow_handlers import EFFECTS, SEEN, Effects

small_limits = limited.small_limits


@pytest.mark.parametrize(
    ("effects", "is_dead"), [(EFFECTS - 1, False), (EFFECTS, False), (EFFECTS + 1, True), (None, True)]
)
@pytest.mark.parametrize("reads", [False, True])
def test_an_event_with_too_many_effects_fails(
    effects: int | None, is_dead: bool, reads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def body() -> Effects:
        count = 0
        if reads:
            count += 1
            yield Read(INTEGER, "k")
        while count != effects:
            count += 1
            yield SEEN

    monkeypatch.setitem(BODIES, "many", body)
    fault = settled("many")
    assert (fault is not None) is is_dead
    if fault is not None:
        assert fault.error_class == "TooManyEffects"
        assert f"may yield {EFFECTS} (SLUICE_HANDLER_EFFECTS)" in fault.text


def test_the_limit_applies_to_the_effects_of_all_handlers_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def body() -> Effects:
        yield from [SEEN] * (EFFECTS // 2 + 1)

    monkeypatch.setitem(BODIES, "many", body)
    fault = settled("many", type="both", second="many")
    assert fault is not None
    assert fault.error_class == "TooManyEffects"


def test_the_limit_applies_in_every_thread() -> None:
    found: list[Any] = []

    def run() -> None:
        found.extend(outcomes(planned("quick"), planned("endless", offset=1)))

    BODIES["endless"] = lambda: iter(lambda: SEEN, None)
    try:
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    finally:
        del BODIES["endless"]
    (first_outcome, _), (second_outcome, fault) = found
    assert (first_outcome, second_outcome) == (Outcome.APPLIED, Outcome.DEAD)
    assert fault.error_class == "TooManyEffects"
