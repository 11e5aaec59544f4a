"""The stack that tests share refuses actions that would harm other tests."""

from pathlib import Path

import pytest

from tests.harness.stacks import SharedStack


def test_a_shared_server_cannot_be_stopped_or_wiped(tmp_path: Path) -> None:
    shared = SharedStack(tmp_path / "stack")
    with pytest.raises(AssertionError, match=r"own\('redis'\)"):
        shared.stop("redis", signal="kill")
    with pytest.raises(AssertionError, match=r"own\('kafka'\)"):
        shared.start("kafka", wipe=True)
    assert not shared.root.exists()
