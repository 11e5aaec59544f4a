"""The content of a signed message: the task and its arguments. Pure.

The signature covers the name of the task, so that a message cannot be used for another task.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from sluice.runtime import celery_options as names
from sluice.runtime.terminal_text import counted
from sluice.tasks.apply.batch_message import Slice

_ARGUMENTS: Mapping[str, Any] = {
    names.APPLY_TASK: tuple[str, list[Slice]],
    names.EFFECT_TASK: tuple[str],
    names.REBUILD_TASK: tuple[str, int, str, int],
    **dict.fromkeys(
        (
            names.RELAY_TASK,
            names.START_REBUILDS_TASK,
            names.START_RETRIES_TASK,
            names.EXPIRE_CLAIMS_TASK,
            names.PURGE_TASK,
            names.SELF_CHECK_TASK,
        ),
        tuple[()],
    ),
}
_DECODERS = {task: msgspec.msgpack.Decoder(arguments) for task, arguments in _ARGUMENTS.items()}
_OUTER = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw])
_ENCODER = msgspec.msgpack.Encoder()


class TaskCall(NamedTuple):
    """A task with the arguments of its function."""

    task: str
    arguments: Sequence[Any]


class UnknownTask(ValueError):
    """Raised if the message names a task that this code does not have."""


class FormatTooOld(ValueError):
    """Raised if a format cannot hold some of the arguments. A newer format can."""


def _write_1(call: TaskCall) -> bytes:
    """Writes format 1, in which a record has no flaw and ends with its headers."""
    if call.task != names.APPLY_TASK:
        return _write_2(call)
    queue, slices = call.arguments
    for piece in slices:
        if any(record.flaw is not None for record in piece.records):
            raise FormatTooOld("a message with a record that is not whole needs format 2")
    older = [(*piece[:-1], [record[:-1] for record in piece.records]) for piece in slices]
    return _write_2(TaskCall(call.task, (queue, older)))


def _write_2(call: TaskCall) -> bytes:
    return _ENCODER.encode((call.task, call.arguments))


def _read(content: bytes) -> TaskCall:
    """Reads all formats. A record without its last field has no flaw."""
    task, arguments = _OUTER.decode(content)
    if task not in _DECODERS:
        raise UnknownTask(task)
    return TaskCall(task, _DECODERS[task].decode(arguments))


WRITERS: dict[int, Callable[[TaskCall], bytes]] = {1: _write_1, 2: _write_2, 3: _write_2}
"""A writer may raise FormatTooOld."""
READERS: dict[int, Callable[[bytes], TaskCall]] = {1: _read, 2: _read, 3: _read}
"""Format → writer. Add a new format here and in `formats.py`. Keep a format while workers need it."""


def describe(call: TaskCall) -> str:
    """Returns the arguments for logs and Flower, without the contents of records."""
    if call.task == names.APPLY_TASK:
        queue, slices = call.arguments
        records = counted(sum(len(piece.records) for piece in slices), "record")
        return f"({queue}, {records} of {counted(len(slices), 'lane')})"
    return repr(tuple(call.arguments))[:200]
