"""Makes folders atomically: a folder exists completely or not at all, also after kills."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """Yields a new folder beside `target` to fill, which becomes `target`, or is removed on an error.

    Two concurrent makers are harmless: the first folder stays, the other is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent))
    try:
        yield part
        try:
            part.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_whole(target: Path, text: str) -> None:
    """Replaces a file so that every reader gets the old text or the new one."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    part.write_text(text)
    part.replace(target)
