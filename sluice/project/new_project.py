"""Makes the files of a new project from the template, with the names of the project."""

import keyword
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ENDING = ".tmpl"
DOT = "dot-"  # replaces the dot of a hidden file, because package data leave out hidden files
VENDORED = "@vendored@"  # marks a line that only a project with the wheel has; at the end of the line
# Names that the user's package cannot have: folders of the project, and Sluice's own package.
TAKEN = frozenset({"sluice", "tests", "vendor", "test"})
_NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
MAX_NAME_CHARACTERS = 40

MakeWheel = Callable[[Path], Path]
"""Puts a wheel of Sluice into the folder, and returns the path of the wheel."""


class ProjectRefused(ValueError):
    """The project cannot be created; the message has the reason and what to do."""


class Names(NamedTuple):
    """The names of the project: in texts, and as an import."""

    project: str
    package: str


def names_of(name: str) -> Names:
    """Returns the names of a project. Raises ProjectRefused if Python cannot import the name. Pure."""
    package = name.replace("-", "_")
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARACTERS:
        raise ProjectRefused(
            f"{name!r} cannot be the name of a project; use 1 to {MAX_NAME_CHARACTERS} lower-case letters,"
            " digits and single hyphens that begin with a letter, as in my-shop (pass --name if the folder"
            " has another name)"
        )
    if keyword.iskeyword(package) or keyword.issoftkeyword(package):
        raise ProjectRefused(f"{name} is a keyword of Python; pass another --name")
    if package in TAKEN or package in sys.stdlib_module_names:
        raise ProjectRefused(f"a module called {package} exists already; pass another --name")
    return Names(name, package)


def create_project(folder: Path, names: Names, *, version: str, make_wheel: MakeWheel | None) -> None:
    """Writes the project into the folder, which must be empty or not exist. Raises ProjectRefused.

    Without `make_wheel` the project installs this version of Sluice from the package index. Writes to the
    folder only after all files are rendered.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ProjectRefused(f"{folder} exists and is not empty; choose a folder that does not exist")
    try:
        with tempfile.TemporaryDirectory() as temporary:
            _fill(Path(temporary), names, version=version, make_wheel=make_wheel)
            # The folder is filled and not replaced, because it may be the current folder.
            folder.mkdir(parents=True, exist_ok=True)
            for made in Path(temporary).iterdir():
                shutil.move(made, folder)
    except OSError as error:
        raise ProjectRefused(f"{folder} cannot be written: {error.strerror or error}") from error


def is_project(folder: Path) -> bool:
    """Returns True if the folder is a project that `sluice new` wrote."""
    return (folder / "sluice.lock").is_file() and (folder / "Makefile").is_file()


def _fill(folder: Path, names: Names, *, version: str, make_wheel: MakeWheel | None) -> None:
    requirement = f"sluice-kafka=={version}"
    if make_wheel is not None:
        vendor = folder / "vendor"
        vendor.mkdir()
        wheel = make_wheel(vendor)
        requirement = f"./vendor/{wheel.name} --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}"
    values = {
        "project": names.project,
        "package": names.package,
        "requirement": requirement,
        "version": version,
    }
    for path, text in _templates():
        target = folder / _target_of(path, names)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(render(text, values, is_vendored=make_wheel is not None))


def render(text: str, values: dict[str, str], *, is_vendored: bool) -> str:
    """Returns the text with the value of each `@name@`, and without the lines for a wheel if the
    project has none. Pure.
    """
    lines = [
        line.replace(VENDORED, "").rstrip() + "\n" if VENDORED in line else line
        for line in text.splitlines(keepends=True)
        if is_vendored or VENDORED not in line
    ]
    return re.sub(r"@(project|package|requirement|version)@", lambda found: values[found[1]], "".join(lines))


def _templates() -> list[tuple[PurePosixPath, str]]:
    return sorted(_walk(files("sluice.project") / "template", PurePosixPath()))


def _walk(folder: Traversable, path: PurePosixPath) -> list[tuple[PurePosixPath, str]]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _walk(entry, path / entry.name)
        else:
            found.append((path / entry.name, entry.read_text()))
    return found


def _target_of(path: PurePosixPath, names: Names) -> PurePosixPath:
    parts = [re.sub(f"^{DOT}", ".", part).removesuffix(ENDING) for part in path.parts]
    return PurePosixPath(*(names.package if part == "package" else part for part in parts))
