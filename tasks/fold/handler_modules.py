"""Imports the modules of SLUICE_HANDLERS, and turns each error of an import into one sentence."""

import importlib
import os
import sys
from traceback import extract_tb
from types import ModuleType

from sluice.db.tables import TableRefused
from sluice.tasks.fold.handler_signature import HandlersRefused


def import_modules(names: str) -> list[ModuleType]:
    """Imports the comma-separated modules. Raises HandlersRefused.

    Puts the current directory first on the path. `python -m` does this, but the script `sluice` does not.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    modules = [_import(name) for name in filter(None, (part.strip() for part in names.split(",")))]
    if not modules:
        raise HandlersRefused(
            "SLUICE_HANDLERS is empty; set it to the modules of your handlers, separated by commas, as in"
            " SLUICE_HANDLERS=myapp.handlers (a project of `sluice new DIR` sets it: run make dev or make"
            " shell)"
        )
    return modules


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except TableRefused as error:
        raise HandlersRefused(f"SLUICE_HANDLERS: module {name}: {error}") from error
    except ImportError as error:
        raise HandlersRefused(
            f"SLUICE_HANDLERS: module {name} cannot be imported: {error}; modules are looked up in the"
            f" current folder {os.getcwd()} and in PYTHONPATH"
        ) from error
    except Exception as error:
        raise HandlersRefused(
            f"SLUICE_HANDLERS: module {name} cannot be imported: {_describe(error)}"
        ) from error


def _describe(error: Exception) -> str:
    """Returns one line: the type, the text, and the file and line of the error."""
    if isinstance(error, SyntaxError):
        text, file, line = error.msg, error.filename, error.lineno
    else:
        frames = extract_tb(error.__traceback__)
        own = [frame for frame in frames if _is_own(frame.filename)] or frames
        text, file, line = str(error), own[-1].filename, own[-1].lineno
    return f"{type(error).__name__}: {text} ({file}, line {line})"


def _is_own(file: str) -> bool:
    """Returns True for a file of the current folder that is not part of the Python environment."""
    return file.startswith(os.getcwd()) and not file.startswith(sys.prefix)
