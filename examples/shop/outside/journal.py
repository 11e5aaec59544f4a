"""A server's memory of what it really did: JSON lines, appended and on disk before anybody is told."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

L = TypeVar("L", bound=msgspec.Struct)


class Journal(Generic[L]):
    """An append-only file of lines of type `L` (a struct, or a union of tagged ones). For any threads."""

    def __init__(self, path: Path, line_type: Any) -> None:
        """Opens or makes the file, and cuts off a last line that a kill tore: nobody was told of it."""
        self._path = path
        self._decoder: msgspec.json.Decoder[L] = msgspec.json.Decoder(line_type)
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.ftruncate(self._descriptor, path.read_bytes().rfind(b"\n") + 1)

    def append(self, line: L) -> None:
        """The line is on disk when this returns; kill -9 and a power cut do not take it back."""
        written = msgspec.json.encode(line) + b"\n"
        with self._lock:
            while written:
                written = written[os.write(self._descriptor, written) :]
            os.fsync(self._descriptor)

    def lines(self) -> Iterator[L]:
        """All lines, oldest first."""
        for line in self._path.read_bytes().splitlines():
            yield self._decoder.decode(line)

    def close(self) -> None:
        """Gives the file back."""
        os.close(self._descriptor)
