"""The stack of a run refuses what would harm the other tests."""

from pathlib import Path

import pytest

from tests.harness.stacks import SharedStack


def test_a_shared_server_can_be_neither_stopped_nor_wiped(tmp_path: Path) -> None:
    shared = SharedStack(tmp_path / "stack")
    with pytest.raises(AssertionError, match=r"own\('redis'\)"):
        shared.stop("redis", signal="kill")
    with pytest.raises(AssertionError, match=r"own\('kafka'\)"):
        shared.start("kafka", wipe=True)
    assert not shared.root.exists()
