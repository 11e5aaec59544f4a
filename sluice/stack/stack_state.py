"""The state of the stack between two commands: ports, folders and processes, in one file."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sluice.stack.atomic_folders import write_whole
from sluice.stack.processes import ProcessId
from sluice.stack.service import Report


@dataclass
class ServiceRecord:
    """The record of one service. `process` may have ended, so the caller must check it."""

    data: Path | None = None
    ports: dict[str, int] = field(default_factory=dict)
    process: ProcessId | None = None


class StackState:
    """The state file of one stack. Any process may read it; write it only under `locked`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._file = root / "state.json"

    def read(self, name: str) -> ServiceRecord:
        """Returns the record of a service, or an empty one."""
        found = self._read_all().get(name, {})
        process = found.get("process")
        return ServiceRecord(
            data=Path(found["data"]) if found.get("data") else None,
            ports=found.get("ports", {}),
            process=ProcessId(**process) if process else None,
        )

    def write(self, name: str, record: ServiceRecord) -> None:
        """Writes the record of a service. Only under `locked`."""
        written = {**asdict(record), "data": str(record.data) if record.data else None}
        write_whole(self._file, json.dumps({**self._read_all(), name: written}, indent=2) + "\n")

    def ports_of_others(self, name: str) -> set[int]:
        """Returns the ports of all other services, even of services that do not run now."""
        return {
            port for other in self._read_all() if other != name for port in self.read(other).ports.values()
        }

    def _read_all(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._file.read_text()))
        except FileNotFoundError:
            return {}

    @contextmanager
    def locked(self, report: Report) -> Iterator[None]:
        """Allows one command at a time per stack. The lock ends with its process and needs no clean-up."""
        path = self._root / "lock"
        while True:
            self._root.mkdir(parents=True, exist_ok=True)
            with path.open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    report("waiting for another command on this stack")
                    fcntl.flock(lock, fcntl.LOCK_EX)
                # The previous holder may have deleted the folder. Then this lock is on a deleted file, and is
                # taken again.
                if is_same_file(path, lock.fileno()):
                    yield
                    return


def is_same_file(path: Path, descriptor: int) -> bool:
    """Returns True if the path still leads to this open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
