"""Makes a wheel of the running Sluice: packs it from its installation, or builds it from its clone."""

import base64
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path

from sluice.project.new_project import ProjectRefused

DISTRIBUTION = "sluice-kafka"
# Files that the installer wrote. They describe only this installation.
_OF_THE_INSTALLER = frozenset({"INSTALLER", "REQUESTED", "RECORD", "direct_url.json"})
_OLDEST = (1980, 1, 1, 0, 0, 0)  # time of every file, so that the same files make the same wheel
# Files and folders that a build needs. Four of the folders are linked into `sluice`.
_FILES = ("LICENSE", "NOTICE", "README.md", "pyproject.toml")
_FOLDERS = ("bridge", "db", "sluice", "tasks", "worker")


def make_wheel(folder: Path) -> Path:
    """Puts the wheel into the folder and returns its path. Raises ProjectRefused."""
    try:
        installed = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return build_wheel(Path(__file__).resolve().parents[2], folder)
    if not any(str(path) == "sluice/__init__.py" for path in installed.files or ()):
        # An editable installation contains only a link to the clone.
        return build_wheel(Path(__file__).resolve().parents[2], folder)
    return pack_wheel(installed, folder)


def pack_wheel(installed: metadata.Distribution, folder: Path) -> Path:
    """Packs an installed distribution as its wheel. Raises ProjectRefused if a file was changed
    after the installation.
    """
    about = installed.read_text("WHEEL") or ""
    tag = next(line.partition(": ")[2] for line in about.splitlines() if line.startswith("Tag: "))
    stem = f"{DISTRIBUTION.replace('-', '_')}-{installed.version}"
    wheel, record = folder / f"{stem}-{tag}.whl", f"{stem}.dist-info/RECORD"
    records = []
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(installed.files or (), key=str):
            if path.parts[0] == ".." or "__pycache__" in path.parts:
                continue
            if ".dist-info" in path.parts[0] and path.name in _OF_THE_INSTALLER:
                continue
            content = Path(str(path.locate())).read_bytes()
            digest = _digest(content)
            if path.hash is not None and (path.hash.mode, path.hash.value) != ("sha256", digest):
                raise ProjectRefused(
                    f"{path} was changed after the installation of {DISTRIBUTION}; install it again, or pass"
                    " --from-index"
                )
            _add(archive, str(path), content)
            records.append(f"{path},sha256={digest},{len(content)}")
        _add(archive, record, "\n".join([*records, f"{record},,", ""]).encode())
    return wheel


def build_wheel(clone: Path, folder: Path) -> Path:
    """Builds the wheel from a clone. Raises ProjectRefused."""
    if not (clone / "pyproject.toml").exists():
        raise ProjectRefused(
            f"{DISTRIBUTION} is neither installed nor a clone: {clone} has no pyproject.toml; pass"
            " --from-index"
        )
    with tempfile.TemporaryDirectory() as temporary:
        # Built in a copy, because a build leaves files beside the code.
        source = Path(temporary)
        for name in _FILES:
            shutil.copy(clone / name, source)
        for name in _FOLDERS:
            without = shutil.ignore_patterns("__pycache__")
            shutil.copytree(clone / name, source / name, symlinks=True, ignore=without)
        command = [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(folder),
            str(source),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stdout + done.stderr).strip().rpartition("\n")[2]
        raise ProjectRefused(
            f"the wheel cannot be built from {clone}: {last}; run `make install` there first"
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _OLDEST)
    entry.external_attr = 0o100644 << 16
    archive.writestr(entry, content, zipfile.ZIP_DEFLATED)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
