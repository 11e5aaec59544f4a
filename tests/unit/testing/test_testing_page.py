"""The page about tests: each block runs by itself."""

import re
from pathlib import Path

import pytest

import sluice.testing

TYPES_OF_RESULTS = {"CallResult", "CrashReport", "DeadLetter", "State"}
PAGE = (Path(__file__).parents[3] / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_runs_by_itself(block: str) -> None:
    exec(compile(block, "docs/testing.md", "exec"), {})


def test_the_page_names_everything_public() -> None:
    for name in sluice.testing.__all__:
        assert name in PAGE or name in TYPES_OF_RESULTS, name
