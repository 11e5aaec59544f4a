"""A projection handler that would emit or call is a type error, before it is anything else."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = """
from collections.abc import Iterator

from examples.shop.handlers.payments import PaymentReceived
from examples.shop.tables import billing_line_items
from sluice.tasks.api import Call, Effect, Emit, Event, Insert, ProjectionEffect, projects


@projects("payment.received", into=billing_line_items, revision=3)
def bill(event: Event[PaymentReceived]) -> Iterator[{effects}]:
    yield Insert(billing_line_items, event.key, {{}})
    {more}
"""


@pytest.mark.parametrize(
    ("effects", "more", "said"),
    [
        ("ProjectionEffect", "", None),
        ("ProjectionEffect", 'yield Emit("out", event.key, "t", {})', 'incompatible types in "yield"'),
        ("ProjectionEffect", 'yield Call("send_email")', 'incompatible types in "yield"'),
        ("Effect", 'yield Call("send_email")', 'type variable "P" of function cannot be'),
    ],
    ids=["writes", "emits", "calls", "calls, and says so"],
)
def test_mypy_refuses_it(tmp_path: Path, effects: str, more: str, said: str | None) -> None:
    module = tmp_path / "example.py"
    module.write_text(EXAMPLE.format(effects=effects, more=more))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(module)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == (said is not None), done.stdout
    assert said is None or said.lower() in done.stdout.lower(), done.stdout
