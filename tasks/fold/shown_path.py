"""Shortens paths of files for messages."""

import os


def shown_path(path: str) -> str:
    """Returns the path relative to the current directory if the file is below it."""
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # the current directory was deleted, or is on another drive
        relative = os.pardir
    return path if relative.startswith(os.pardir) else relative
