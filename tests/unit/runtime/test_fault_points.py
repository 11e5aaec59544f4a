"""Fault points: silent unless named, and then only the n-th pass acts."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sluice.runtime.fault_points import POINTS, FaultInjected, Faults
from sluice.stack.patience import patient

PROJECT = Path(__file__).resolve().parents[3]


def test_a_point_that_is_not_named_does_nothing() -> None:
    faults = Faults()
    for point in POINTS:
        faults.reach(point)
    faults.arm("apply.begun:1:raise")
    faults.reach("apply.committed")


def test_only_the_nth_pass_acts() -> None:
    faults = Faults()
    faults.arm(" apply.begun:2:raise , apply.committed:1:raise")
    faults.reach("apply.begun")
    with pytest.raises(FaultInjected, match=re.escape("apply.begun")):
        faults.reach("apply.begun")
    faults.reach("apply.begun")
    with pytest.raises(FaultInjected):
        faults.reach("apply.committed")


def test_arming_again_forgets_what_was_armed() -> None:
    faults = Faults()
    faults.arm("apply.begun:1:raise")
    faults.arm("")
    faults.reach("apply.begun")


@pytest.mark.parametrize(
    "text", ["apply.nowhere:1:kill", "apply.begun:1:explode", "apply.begun:x:kill", "apply.begun"]
)
def test_what_is_unknown_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="SLUICE_FAULTS") as refused:
        Faults().arm(text)
    assert text in str(refused.value)


def test_kill_is_sigkill() -> None:
    program = (
        "from sluice.runtime.fault_points import faults;"
        "faults.arm('apply.begun:1:kill'); faults.reach('apply.begun')"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, timeout=patient(60), check=False)
    assert ended.returncode == -signal.SIGKILL


def test_every_point_stands_once_in_the_code() -> None:
    code = "".join(
        p.read_text()
        for folder in ("bridge", "sluice/admin", "sluice/cli", "tasks", "worker")
        for p in (PROJECT / folder).rglob("*.py")
    )
    assert {point: code.count(f'faults.reach("{point}")') for point in POINTS} == dict.fromkeys(POINTS, 1)
