"""Recognises errors that end the worker, not only the code that it runs."""

from types import TracebackType

_POOLS = ("celery.", "billiard.")


def is_worker_stop(error: BaseException) -> bool:
    """Returns True for an error that ends this process and was not raised by the code that ran.

    These are KeyboardInterrupt and the SystemExit that signal handlers of Celery and its pools raise.
    """
    if isinstance(error, KeyboardInterrupt):
        return True
    # Does not import Celery: commands that run no handler start without it.
    return isinstance(error, SystemExit) and (
        type(error).__module__.startswith(_POOLS) or _raised_in(error.__traceback__).startswith(_POOLS)
    )


def _raised_in(traceback: TracebackType | None) -> str:
    """Returns the module whose code raised the error."""
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return str(traceback.tb_frame.f_globals.get("__name__", ""))
