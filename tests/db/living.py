"""Functions that write rows of table `processes`, as running processes would."""

from collections.abc import Iterable, Mapping
from uuid import UUID, uuid4

from sluice.db.connection import Session
from sluice.db.delivery.living_processes import Process, write_process
from sluice.db.records import ProcessKind


def add_process(
    session: Session,
    kind: ProcessKind = ProcessKind.WORKER,
    *,
    topics: Mapping[str, str] | None = None,
    effects: Iterable[str] = (),
    queues: Iterable[str] | None = None,
    format: int = 1,
    clock_offset: float | None = None,
) -> UUID:
    """Writes the row of another running process and returns its id."""
    topics = topics or {}
    process = Process(
        uuid4(),
        kind,
        "one@host",
        1,
        format,
        1,
        None if queues is None else tuple(queues),
        dict.fromkeys(topics.values(), 1),
        topics,
        tuple(effects),
        clock_offset,
    )
    write_process(session, process)
    return process.process


def end_process(session: Session, process: UUID) -> None:
    """Sets the heartbeat of a process to one hour ago."""
    session.command(
        f"UPDATE sluice.processes SET heartbeat_at = now() - interval '1 hour' WHERE process = '{process}'"
    )
