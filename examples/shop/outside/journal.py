"""A server's record of its actions: JSON lines, which are on disk before the server answers."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

L = TypeVar("L", bound=msgspec.Struct)


class Journal(Generic[L]):
    """An append-only file of lines of type `L`, a struct or a union of tagged structs. Thread-safe."""

    def __init__(self, path: Path, line_type: Any) -> None:
        """Opens or creates the file, and removes an incomplete last line, because the server never
        answered the request of this line.
        """
        self._path = path
        self._decoder: msgspec.json.Decoder[L] = msgspec.json.Decoder(line_type)
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.ftruncate(self._descriptor, path.read_bytes().rfind(b"\n") + 1)

    def append(self, line: L) -> None:
        """Appends a line. When this returns, the line is on disk and survives kill -9 and a power failure."""
        written = msgspec.json.encode(line) + b"\n"
        with self._lock:
            while written:
                written = written[os.write(self._descriptor, written) :]
            os.fsync(self._descriptor)

    def lines(self) -> Iterator[L]:
        """Yields all lines, oldest first."""
        for line in self._path.read_bytes().splitlines():
            yield self._decoder.decode(line)

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)
