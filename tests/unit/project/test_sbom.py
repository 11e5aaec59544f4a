"""`make sbom` lists the packages of the image with their versions and hashes."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.project.test_compose import ROOT, pins

LOCK = ROOT / "requirements-image.lock"


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Runs the target with the packages of this environment, and returns what it wrote."""
    file = tmp_path_factory.mktemp("sbom") / "sbom.json"
    command = ["make", "-o", "install", "sbom", f"BIN={Path(sys.executable).parent}", f"SBOM={file}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(file.read_text())
    return read


def test_the_list_has_each_package_of_the_lock_with_its_version_and_hashes(listed: dict[str, Any]) -> None:
    components = listed["components"]
    assert {one["name"]: one["version"] for one in components} == pins(LOCK)
    hashes = {
        entry["content"]
        for one in components
        for place in one["externalReferences"]
        for entry in place["hashes"]
    }
    assert hashes == set(re.findall(r"sha256:(\w+)", LOCK.read_text()))


def test_the_list_names_sluice_and_its_licence(listed: dict[str, Any]) -> None:
    described = listed["metadata"]["component"]
    assert described["name"] == "sluice-kafka"
    assert described["licenses"][0]["license"]["id"] == "Apache-2.0"
