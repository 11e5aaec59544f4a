"""Recognises errors that must end the whole worker, and not only the handler or call that it runs."""

from types import TracebackType

_POOLS = ("celery.", "billiard.")


def is_worker_stop(error: BaseException) -> bool:
    """Returns True for an error that must end this process.

    Such errors are KeyboardInterrupt, and a SystemExit that a signal handler of Celery or of its pools
    raised. A SystemExit that a handler or a call raised is not such an error.
    """
    if isinstance(error, KeyboardInterrupt):
        return True
    # Celery is not imported, because commands that run no handler start faster without it.
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
