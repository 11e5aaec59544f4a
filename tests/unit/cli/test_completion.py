"""Shell completion, run by a real bash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BASH = shutil.which("bash")
LAUNCHER = "#!{}\nfrom sluice.cli.main import app\n\napp()\n"
# Installs completion in .bashrc, and then runs the steps of bash for the key Tab.
TAB = """
sluice --install-completion >/dev/null && source ~/.bashrc
COMP_WORDS=({words}) COMP_CWORD={number}
_sluice_completion sluice
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.skipif(BASH is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["sluice", "sta"], ["stack", "status"]),
        (["sluice", "--vers"], ["--version"]),
        (["sluice", "send", "--ty"], ["--type"]),
        (["sluice", "dlq", "re"], ["redrive", "resolve"]),
        # A group of commands does not offer the options that install completion.
        (["sluice", "audit", "--"], ["--help"]),
    ],
    ids=lambda part: " ".join(part),
)
def test_bash_completes_commands_and_options(words: list[str], completed: list[str], tmp_path: Path) -> None:
    launcher = tmp_path / "sluice"
    launcher.write_text(LAUNCHER.format(sys.executable))
    launcher.chmod(0o755)
    environ = os.environ | {"HOME": str(tmp_path), "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    script = TAB.format(words=" ".join(words), number=len(words) - 1)
    done = subprocess.run(
        [str(BASH), "--norc", "-c", script], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == completed
    assert done.stderr == ""
