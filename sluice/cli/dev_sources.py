"""Finds the files of the handlers, by importing them in a separate process, and detects changes.

`python -m sluice.cli.dev_sources FILE` imports the modules of SLUICE_HANDLERS and writes their
files, as JSON, into FILE.
"""

import os
import sys
from collections.abc import Iterable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from traceback import StackSummary, TracebackException
from typing import Any, TypeAlias

import msgspec

from sluice.db.tables import TableRefused
from sluice.stack.atomic_folders import write_whole
from sluice.tasks.fold.handler_signature import HandlersRefused
from sluice.tasks.fold.registry import collect_handlers

Fingerprint: TypeAlias = dict[str, tuple[int, int]]
"""File → time of its last change in nanoseconds, and size in bytes. Missing files are left out."""


class Sources(msgspec.Struct, frozen=True):
    """Python files below a folder, as paths relative to it."""

    files: tuple[str, ...]
    error: str | None = None
    """The error of the import, if the modules cannot be imported. `files` then has only the files
    found before it.
    """


class SourceRecorder:
    """Finds modules as Python does, and records the modules below a folder, even if their import fails."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Called by the import system for every module that is not imported yet."""
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None and is_source(Path(spec.origin), self._folder):
            self.files.add(os.path.relpath(spec.origin, self._folder))
        return spec


def is_source(path: Path, folder: Path) -> bool:
    """Returns True for a Python file below the folder that belongs to no installed package."""
    installed = "site-packages" in path.parts or path.is_relative_to(sys.prefix)
    return path.suffix == ".py" and path.is_relative_to(folder) and not installed


def find_sources(names: str, folder: Path) -> Sources:
    """Imports the modules and what they import. Call it once per process, before any of them is imported."""
    recorder = SourceRecorder(folder)
    sys.meta_path.insert(0, recorder)
    error = None
    try:
        collect_handlers(names)
    except HandlersRefused as refused:
        cause = refused.__cause__
        if cause is None or isinstance(cause, (ImportError, TableRefused)):
            error = str(refused)
        else:
            error = _describe(cause, folder)
    except SystemExit as raised:
        error = _describe(raised, folder)
    finally:
        sys.meta_path.remove(recorder)
    return Sources(tuple(sorted(recorder.files)), error)


def _describe(error: BaseException, folder: Path) -> str:
    """Returns the traceback of an error without the frames of Python and Sluice."""
    described = TracebackException.from_exception(error)
    ours = [frame for frame in described.stack if Path(frame.filename).is_relative_to(folder)]
    described.stack = StackSummary.from_list(ours)
    return "".join(described.format()).rstrip()


def files_to_watch(sources: Sources, before: Iterable[str], folder: Path) -> set[str]:
    """Returns the files whose change may change the modules.

    While the import fails, also returns the other files in the same folders: a change of one may
    repair the import.
    """
    if sources.error is None:
        return set(sources.files)
    known = {*sources.files, *before}
    parents = {folder, *((folder / file).parent for file in known)}
    beside = {os.path.relpath(path, folder) for parent in parents for path in parent.glob("*.py")}
    return known | beside


def fingerprint(files: Iterable[str], folder: Path) -> Fingerprint:
    """Returns a value that changes when a file is saved, created or deleted."""
    found: Fingerprint = {}
    for file in files:
        try:
            stat = (folder / file).stat()
        except OSError:
            continue
        found[file] = (stat.st_mtime_ns, stat.st_size)
    return found


def changed_files(before: Fingerprint, after: Fingerprint) -> list[str]:
    """Returns the files that differ, in order."""
    return sorted(file for file in before.keys() | after.keys() if before.get(file) != after.get(file))


if __name__ == "__main__":
    found = find_sources(os.environ.get("SLUICE_HANDLERS", ""), Path.cwd())
    write_whole(Path(sys.argv[1]), msgspec.json.encode(found).decode())
