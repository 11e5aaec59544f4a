"""The servers of `sluice dev`: those that the environment names, or the local stack of this folder."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from sluice.cli.dev_processes import SIGNALS
from sluice.cli.hints import joined, stop_hint
from sluice.cli.stack import ROOT, installation_name
from sluice.runtime.service_urls import StackUrls
from sluice.stack import Stack
from sluice.stack.external_urls import UNSET_HINT, external_urls
from sluice.stack.local import SLOWEST_FIRST


class DevServers:
    """Starts the local servers if the environment names no others, and stops those that it started."""

    def __init__(self, environ: Mapping[str, str], report: Callable[[str], None]) -> None:
        """Raises StackError if the environment names only some servers."""
        self._report = report
        self._stack = Stack(ROOT, report=report, name=installation_name(environ))
        self._external = external_urls(environ, self._stack.environ())
        self._before = [one.name for one in self._stack.status() if one.state == "running"]

    @property
    def are_local(self) -> bool:
        """True if they are the local stack of this folder."""
        return self._external is None

    @contextmanager
    def running(self) -> Iterator[StackUrls]:
        """Yields the addresses of the servers. Stops those that it started afterwards."""
        if self._external is not None:
            self._report(f"the environment names other servers: none started; {UNSET_HINT}")
            yield self._external
            return
        try:
            with _raising_signals():
                urls = self._stack.up()
            yield urls
        finally:
            for name in SLOWEST_FIRST:
                if name not in self._before:
                    self._stack.stop(name)

    def last_line(self) -> str:
        """Returns what has ended, and what still runs."""
        if not self.are_local:
            return "all processes have ended; the servers that the environment names were not stopped"
        if not self._before:
            return "everything has ended"
        verb = "runs" if len(self._before) == 1 else "run"
        return f"all processes have ended; {joined(self._before)} still {verb}; {stop_hint()}"


@contextmanager
def _raising_signals() -> Iterator[None]:
    """Makes signals raise KeyboardInterrupt, so that they abort the start of a server."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
