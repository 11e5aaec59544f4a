"""Runs a user's handler: the one place that does. Pure."""

from collections.abc import Generator
from typing import Any

from sluice.tasks.api import Effect, Event
from sluice.tasks.fold.registry import AnyEntry


def iter_effects(entry: AnyEntry, event: Event[Any]) -> Generator[Effect, Any, None]:
    """Yields the effects of one run of a handler, and sends it the answers to its Reads.

    Raises what the handler raises.
    """
    yield from entry.function(event)
