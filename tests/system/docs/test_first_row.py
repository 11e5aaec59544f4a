"""The commands of README up to the first row, run in a copy of the clone without a virtual environment."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.documents import ROOT, blocks_in
from tests.system.docs.shell import Shell, shell, user_environ
from tests.waiting import wait_until

pytestmark = pytest.mark.matrix

# Files that a fresh clone does not have: a build, a virtual environment or a run has made them.
NOT_IN_A_CLONE = shutil.ignore_patterns(
    ".git", ".venv", ".sluice", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
)
RUNS = "all processes are ready"  # README tells the reader to wait for this line.
INSTALL_SECONDS = 600.0


def test_the_steps_of_readme_lead_to_rows(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, ignore=NOT_IN_A_CLONE, symlinks=True)
    readme = ROOT / "README.md"
    _demo, make_project, send = [block.text for block in blocks_in("sh", page=readme)]
    environ = user_environ()
    own = Path(sys.executable).parent  # This folder contains the `sluice` of this clone.
    environ["PATH"] = os.pathsep.join(
        folder for folder in environ["PATH"].split(os.pathsep) if folder != str(own)
    )
    begun = time.monotonic()
    with (
        shell(environ, clone, tmp_path / "first.log") as first,
        shell(environ, clone, tmp_path / "second.log") as second,
    ):
        first.type(make_project, until=RUNS, seconds=INSTALL_SECONDS)
        printed = second.type(send)
        print(f"{time.monotonic() - begun:.0f} s for the commands of README")
        if not has_rows(printed):
            wait_until(
                lambda: has_rows(second.type("make show")), timeout_seconds=60, what="the rows are shown"
            )
        print(f"{time.monotonic() - begun:.0f} s to the first rows")
        first.interrupt()
        assert "everything has ended" in first.printed
        assert_servers_have_ended(second)


def has_rows(printed: str) -> bool:
    """Returns True if both orders are printed, and the first order has been shipped."""
    return "order_id=o-1 customer=ann status=SHIPPED" in printed and "order_id=o-2 customer=bob" in printed


def assert_servers_have_ended(bash: Shell) -> None:
    """Asserts that Ctrl-C has ended the servers that `make dev` started."""
    assert "running" not in bash.type(".venv/bin/sluice stack status || true")
