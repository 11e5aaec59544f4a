"""A redrive of a generation's letters writes rows of the generation, so a swap waits for older snapshots."""

from collections.abc import Callable
from typing import Any

import pytest

from sluice.admin.rebuild.older_snapshots import OlderSnapshots
from tests.db.tasks import failing_projections, projecting, reading
from tests.db.tasks.applying import thing_set
from tests.db.tasks.failing_projections import BAD, Bench, raising, registry
from tests.db.tasks.reading import RR, Reader

bench = failing_projections.bench
opened = projecting.opened
open_reader = reading.open_reader


def test_a_swap_waits_for_a_snapshot_older_than_a_redriven_letter(
    bench: Bench, opened: Any, open_reader: Callable[..., Reader]
) -> None:
    live = opened(bench.with_code(registry()))
    live.live(thing_set(0, "a", 1), thing_set(1, "b", BAD))
    failing = opened(bench.with_code(registry(raising, revision=2)))
    number = failing.begin()
    assert failing.rebuild(number)
    assert bench.letters(number)
    reader = open_reader(f"{RR}; SELECT 1")
    mended = opened(bench.with_code(registry(revision=2)))
    assert mended.redrive_letters("b", number) is None
    with pytest.raises(OlderSnapshots):
        mended.swap(number)
    reader.run("COMMIT")
    mended.swap(number)
    assert reader.keys() == {"a", "b"}
