"""Makes folders atomically: a folder exists completely or not at all, even if a process is killed."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """Yields a new folder beside `target`. The block fills the folder, which is then renamed to `target`.

    If the block raises an error, the new folder is removed. Two processes may do this at the same time: the
    first folder becomes `target`, and the other folder is removed.
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
    """Replaces a file. Every reader gets either the whole old text or the whole new text."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    part.write_text(text)
    part.replace(target)
