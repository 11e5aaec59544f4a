"""Logs events that became dead letters: at most one line per minute for each handler, code line and error."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from sluice.db.records import Outcome
from sluice.runtime.log_pace import LogPace
from sluice.tasks.fold.fold_state import EventResult
from sluice.tasks.fold.handler_faults import place_of
from sluice.tasks.fold.plan import HandlerRun, Planned

log = structlog.get_logger("sluice.apply")

MAX_ERROR_CHARACTERS = 200


class DeathLog:
    """Logs failed events. Not thread-safe. The dead letters hold the details that a log line omits."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._pace = LogPace(clock=clock)

    def note_committed(self, queue: str, settled: Sequence[EventResult]) -> None:
        """Logs the events of a committed batch that failed, as a whole or for one projection."""
        for one in settled:
            if one.outcome is Outcome.DEAD and one.error is not None:
                self._note("event died", queue, one)
            for letter in one.letters:
                if letter.failed:
                    runs = [run for run in one.planned.runs if _fills(run, letter.projection)]
                    failed = EventResult(Planned(one.planned.decoded, runs), letter.outcome, letter.fault)
                    self._note("event failed for a projection", queue, failed, projection=letter.projection)

    def _note(self, what: str, queue: str, died: EventResult, **more_fields: str) -> None:
        assert died.error is not None
        where = _where(died)
        more = self._pace.count((queue, died.error.error_class, *where.items(), *more_fields.items()))
        if more is None:
            return
        decoded = died.planned.decoded
        log.warning(
            what,
            queue=queue,
            **more_fields,
            record=f"{decoded.topic}:{decoded.partition}:{decoded.record.offset}",
            key=decoded.entity_key,
            error=str(died.error)[:MAX_ERROR_CHARACTERS],
            **where,
            **({"more_in_the_last_minute": more} if more else {}),
        )


def _fills(run: HandlerRun, projection: str) -> bool:
    return run.into is not None and run.into.name == projection


def describe_place(died: EventResult) -> str:
    """Returns handler, file and line in brackets; an empty text if no handler is known."""
    where = _where(died)
    lines = f" at {where['file']}:{where['line']}" if "file" in where else ""
    return f" (in {where['handler']}{lines})" if where else ""


def _where(died: EventResult) -> dict[str, Any]:
    """Returns handler, file and line; only names if Postgres refused writes of several handlers."""
    assert died.error is not None
    at, runs = died.error.at, died.planned.runs
    if at is None and len(runs) == 1:
        at = place_of(runs[0].entry)
    if at is not None:
        return at._asdict()
    return {"handler": ", ".join(run.entry.name for run in runs)} if runs else {}
