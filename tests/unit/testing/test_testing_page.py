"""The page about testing names every public name of sluice.testing."""

import re
from pathlib import Path

import sluice.testing

TYPES_OF_RESULTS = {"CallResult", "CrashReport", "DeadLetter", "State"}
PAGE = (Path(__file__).parents[3] / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_names_every_public_name() -> None:
    for name in sluice.testing.__all__:
        assert name in PAGE or name in TYPES_OF_RESULTS, name
