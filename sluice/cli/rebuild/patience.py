"""Waiting for a moment: live traffic may be a batch ahead just now, or hold a lock."""

import time
from collections.abc import Callable
from typing import TypeVar

import typer

from sluice.admin.decisions import OperationRefused
from sluice.admin.rebuild.generation_locks import Behind, Held
from sluice.cli.rebuild.rebuild_options import RETRY_SECONDS

T = TypeVar("T")
SAY_SECONDS = 2.0
PATIENCE_SECONDS = 30.0


def until_possible(attempt: Callable[[], T], patience_seconds: float) -> T:
    """Returns the attempt's result once no lane lags and no lock is held. Raises OperationRefused."""
    until, said = time.monotonic() + patience_seconds, float("-inf")
    while True:
        try:
            return attempt()
        except (Behind, Held) as why:
            now = time.monotonic()
            if now >= until:
                raise OperationRefused(
                    f"after {patience_seconds:.0f} s {why}: nothing was changed. Do workers of its revision"
                    " run, on the entity types' queues and on `rebuild`?"
                ) from why
            if now - said >= SAY_SECONDS:
                said = now
                typer.echo(f"waiting: {why}", err=True)
            time.sleep(RETRY_SECONDS)
