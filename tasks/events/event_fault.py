"""The reason why an event is not applied, as a dead letter stores it."""

from dataclasses import dataclass, field
from typing import NamedTuple

from sluice.db.values import MAX_ERROR_CHARACTERS, printable
from sluice.runtime.worker_stop import is_worker_stop

MAX_CLASS_CHARACTERS = 200


class HandlerPlace(NamedTuple):
    """A line of a handler."""

    handler: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class EventFault:
    """Class and text of an error, and its line in a handler.

    The exception itself is not kept. Its traceback holds the frames of the handler. An error of Postgres
    holds a cursor, and the query of the cursor holds every payload of the batch.
    """

    error_class: str
    text: str
    at: HandlerPlace | None = field(default=None, compare=False)
    """None if the error does not come from a single handler."""
    traceback: str = field(default="", compare=False)
    """The frames of the handler as bounded text, without values; empty if no handler raised the error."""

    def __str__(self) -> str:
        return f"{self.error_class}: {self.text}"

    @classmethod
    def of(cls, error: BaseException, at: HandlerPlace | None = None, traceback: str = "") -> "EventFault":
        """Returns the fault of an error, even if the `str()` of the error raises."""
        name = printable(type(error).__name__)[:MAX_CLASS_CHARACTERS]
        try:
            text = str(error)
        except BaseException as second:
            if is_worker_stop(second):
                raise
            text = f"the error has no text: {type(second).__name__}"
        return cls(name, printable(text[:MAX_ERROR_CHARACTERS]), at, traceback)
