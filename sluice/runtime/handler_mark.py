"""Memory that a worker shares with its supervisor.

It holds the event whose handler runs, and the worker's state. The worker writes the memory, and the
supervisor reads it. Numbers are 64 bits wide. Behind the numbers is the label, a JSON text.
"""

import json
import os
from collections.abc import Mapping
from enum import IntEnum
from mmap import mmap
from typing import NamedTuple

MARK_BYTES = 4096
RUNNING, PARTITION, OFFSET, STATE, LABEL_BYTES = range(5)
_LABEL_AT = 64

MARK_VARIABLE = "_SLUICE_HANDLER_MARK"
"""An environment variable with the memory's descriptor and the supervisor's process id, as in `7:4711`.

Users must not set it.
"""


class WorkerState(IntEnum):
    """The phase of a worker. A new worker is STARTING."""

    STARTING = 0
    READY = 1
    ENDING = 2
    """The worker received a signal to end."""


class Mark(NamedTuple):
    """An event whose handler runs. Each run of a worker has a different `number`."""

    number: int
    queue: str
    topic: str
    topic_id: str
    partition: int
    offset: int


def write_place(cells: memoryview, partition: int, offset: int) -> None:
    """Stores the position of the event, before its handlers run."""
    cells[PARTITION] = partition
    cells[OFFSET] = offset


def write_label(cells: memoryview, label: tuple[str, str, str]) -> None:
    """Stores queue, topic and topic id. Raises ValueError if they do not fit."""
    text = json.dumps(label).encode()
    cells.cast("B")[_LABEL_AT : _LABEL_AT + len(text)] = text
    cells[LABEL_BYTES] = len(text)


def read_mark(memory: memoryview) -> Mark | None:
    """Returns the event whose handler ran when the worker ended; None if no handler ran.

    Call it only after the worker has ended.
    """
    cells = memory.cast("q")
    if cells[RUNNING] == 0:
        return None
    text = bytes(memory[_LABEL_AT : _LABEL_AT + cells[LABEL_BYTES]])
    queue, topic, topic_id = json.loads(text)
    return Mark(cells[RUNNING], queue, topic, topic_id, cells[PARTITION], cells[OFFSET])


def make_memory() -> int:
    """Returns a descriptor of zeroed memory. A process that inherits the descriptor shares the memory."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("sluice-handler-mark")
    else:
        import tempfile

        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, MARK_BYTES)
    return descriptor


def map_memory(descriptor: int) -> memoryview:
    """Returns the memory behind a descriptor. Raises OSError, ValueError."""
    return memoryview(mmap(descriptor, MARK_BYTES))


def find_memory(environ: Mapping[str, str]) -> memoryview | None:
    """Returns the memory that the parent shares with this process; None if there is no shared memory."""
    descriptor, _, supervisor = environ.get(MARK_VARIABLE, "").partition(":")
    # Grandchildren inherit the variable, but not the descriptor.
    if not supervisor or int(supervisor) != os.getppid():
        return None
    return map_memory(int(descriptor))
