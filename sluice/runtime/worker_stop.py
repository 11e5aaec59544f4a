"""What ends a worker rather than what it runs."""

from types import TracebackType

_POOLS = ("celery.", "billiard.")


def is_worker_stop(error: BaseException) -> bool:
    """Returns True for an error that ends this process, whatever code it ran: the code did not raise it.

    These are KeyboardInterrupt and the SystemExit of Celery and its pools, whose signal handlers raise it.
    """
    if isinstance(error, KeyboardInterrupt):
        return True
    # Celery is not imported for this: commands that run no handler start without it.
    return isinstance(error, SystemExit) and (
        type(error).__module__.startswith(_POOLS) or _raised_in(error.__traceback__).startswith(_POOLS)
    )


def _raised_in(traceback: TracebackType | None) -> str:
    """The module whose code raised."""
    if traceback is None:
        return ""
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return str(traceback.tb_frame.f_globals.get("__name__", ""))
