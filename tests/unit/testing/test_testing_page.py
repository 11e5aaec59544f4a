"""The page about tests names everything that the kit offers. Its blocks run with those of all pages."""

import re
from pathlib import Path

import sluice.testing

TYPES_OF_RESULTS = {"CallResult", "CrashReport", "DeadLetter", "State"}
PAGE = (Path(__file__).parents[3] / "docs" / "testing.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_page_names_everything_public() -> None:
    for name in sluice.testing.__all__:
        assert name in PAGE or name in TYPES_OF_RESULTS, name
