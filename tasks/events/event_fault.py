"""Why an event is not applied, as a dead letter holds it."""

from dataclasses import dataclass

from sluice.db.values import MAX_ERROR_CHARACTERS, printable
from sluice.runtime.worker_stop import is_worker_stop

MAX_CLASS_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class EventFault:
    """Class and text of an error.

    The exception itself is not kept: its traceback holds the frames of the handler, and an error of Postgres
    holds its cursor, whose query holds every payload of the batch.
    """

    error_class: str
    text: str

    def __str__(self) -> str:
        return f"{self.error_class}: {self.text}"

    @classmethod
    def of(cls, error: BaseException) -> "EventFault":
        """Returns the fault of an error. Whatever the error's own text raises is ignored."""
        name = printable(type(error).__name__)[:MAX_CLASS_CHARACTERS]
        try:
            text = str(error)
        except BaseException as second:
            if is_worker_stop(second):
                raise
            text = f"the error has no text: {type(second).__name__}"
        return cls(name, printable(text[:MAX_ERROR_CHARACTERS]))
