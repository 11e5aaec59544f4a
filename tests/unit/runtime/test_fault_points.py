"""A fault point acts only if it is armed, and only when the code reaches it for the n-th time."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sluice.runtime.fault_points import POINTS, FaultInjected, Faults
from sluice.stack.patience import patient

PROJECT = Path(__file__).resolve().parents[3]


def test_a_point_that_is_not_armed_does_nothing() -> None:
    faults = Faults()
    for point in POINTS:
        faults.reach(point)
    faults.arm("apply.begun:1:raise")
    faults.reach("apply.committed")


def test_an_armed_point_acts_only_at_its_nth_pass() -> None:
    faults = Faults()
    faults.arm(" apply.begun:2:raise , apply.committed:1:raise")
    faults.reach("apply.begun")
    with pytest.raises(FaultInjected, match=re.escape("apply.begun")):
        faults.reach("apply.begun")
    faults.reach("apply.begun")
    with pytest.raises(FaultInjected):
        faults.reach("apply.committed")


def test_arming_again_replaces_the_armed_points() -> None:
    faults = Faults()
    faults.arm("apply.begun:1:raise")
    faults.arm("")
    faults.reach("apply.begun")


@pytest.mark.parametrize(
    "text", ["apply.nowhere:1:kill", "apply.begun:1:explode", "apply.begun:x:kill", "apply.begun"]
)
def test_an_unknown_point_or_action_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="SLUICE_FAULTS") as refused:
        Faults().arm(text)
    assert text in str(refused.value)


def test_the_action_kill_sends_sigkill() -> None:
    program = (
        "from sluice.runtime.fault_points import faults;"
        "faults.arm('apply.begun:1:kill'); faults.reach('apply.begun')"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, timeout=patient(60), check=False)
    assert ended.returncode == -signal.SIGKILL


def test_the_code_reaches_every_point_in_exactly_one_place() -> None:
    code = "".join(
        p.read_text()
        for folder in ("bridge", "sluice/admin", "sluice/cli", "tasks", "worker")
        for p in (PROJECT / folder).rglob("*.py")
    )
    assert {point: code.count(f'faults.reach("{point}")') for point in POINTS} == dict.fromkeys(POINTS, 1)
