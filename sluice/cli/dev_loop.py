"""Keeps the processes of `sluice dev` running, and restarts them when their code changes."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from sluice.cli.dev_processes import SLUICE, STOP_SECONDS, Child, Children, Command
from sluice.cli.dev_sources import Fingerprint, Sources, changed_files, files_to_watch, fingerprint
from sluice.runtime.service_urls import StackUrls
from sluice.runtime.terminal_text import counted
from sluice.worker.supervision import STEADY_SECONDS, describe_end, pause_seconds

POLL_SECONDS = 0.3
# A busy machine needs a minute until all processes are ready.
WAITING_EVERY_SECONDS = 10.0
MOST_NAMES = 3
IMPORT = ("-m", "sluice.cli.dev_sources")


class Refused(Exception):
    """`sluice dev` cannot start; the message says why."""


class DevLoop:
    """The running processes, and the files of their code."""

    def __init__(
        self,
        children: Children,
        report: Callable[[str], None],
        *,
        environ: Mapping[str, str],
        folder: Path,
        home: Path,
    ) -> None:
        """`folder` contains the handlers. `home` contains the files that this loop writes."""
        self._children = children
        self._report = report
        self._environ = environ
        self._folder = folder
        self._home = home
        self._running: dict[Command, Child] = {}
        self._due: dict[Command, float] = {}
        """Ended process → the time at which it is restarted."""
        self._failures: dict[Command, int] = {}
        self._ending: dict[Command, float] = {}
        """Processes that were ordered to end, to be started again, and when each is killed."""
        self._unready_since: float | None = None
        """When a process was started after all were ready; None if all are ready."""
        self._waiting_reported_at = 0.0
        self._sources = Sources(())
        self._watched: set[str] = set()
        self._seen: Fingerprint = {}
        self._saved: Fingerprint = {}

    def check_handlers(self) -> None:
        """Imports the handlers. Raises Refused, and KeyboardInterrupt after a signal."""
        if not self._import_handlers():
            self._refuse("the handlers cannot be imported: nothing was started")

    def run(
        self,
        commands: Sequence[Command],
        urls: StackUrls,
        *,
        hints: Sequence[str],
        advice: str,
        is_over: Callable[[], bool],
    ) -> None:
        """Runs the processes until a signal arrives or `is_over` returns True, then ends them all.

        `hints` are reported when they are started, `advice` if `sluice init` fails. Raises Refused, and
        KeyboardInterrupt after a signal.
        """
        self._environ = {**self._environ, **urls.environ()}
        if not self._prepare():
            self._refuse(f"`sluice init` failed: no process was started{advice}")
        try:
            for command in commands:
                self.start(command)
            for hint in hints:
                self._report(hint)
            self._report(
                f"watching {counted(len(self._watched), 'file')} of your handlers; Ctrl-C ends everything"
            )
            while not self._children.signals and not is_over():
                self._children.pump(POLL_SECONDS)
                self._follow_changes()
                self.start_again()
                self.report_ready()
        finally:
            self._report("ending all processes")
            self.end()

    def _refuse(self, why: str) -> NoReturn:
        if self._children.signals:
            raise KeyboardInterrupt
        raise Refused(why)

    def start(self, command: Command) -> None:
        """Starts a process and reports its id."""
        health_file = self._health_file(command)
        health_file.unlink(missing_ok=True)
        environ = {**self._environ, "SLUICE_HEALTH_FILE": str(health_file)}
        self._running[command] = self._children.start(command, environ)
        if self._unready_since is None:
            self._unready_since = self._waiting_reported_at = time.monotonic()
        self._report(f"{command.name} starts, pid {self._running[command].pid}")

    def start_again(self) -> None:
        """Reports ended processes, and restarts each after a pause that grows with its failures."""
        now = time.monotonic()
        for command, child in list(self._running.items()):
            exit_code = child.exit_code
            if exit_code is None:
                if now > self._ending.get(command, now):
                    child.send(signal.SIGKILL)
                continue
            self._children.finish(child)
            del self._running[command]
            if self._ending.pop(command, None) is not None:
                self._due[command] = now
                continue
            ran_seconds = now - child.started_at
            failures = 1 if ran_seconds >= STEADY_SECONDS else self._failures.get(command, 0) + 1
            pause = pause_seconds(failures)
            self._failures[command], self._due[command] = failures, now + pause
            times = f", {failures} times in a row" if failures > 1 else ""
            self._report(
                f"{command.name} ended with {describe_end(exit_code)} after {ran_seconds:.0f} s{times};"
                f" it starts again in {pause:.0f} s"
            )
        for command in [command for command, at in self._due.items() if at <= now]:
            del self._due[command]
            self.start(command)

    def report_ready(self) -> None:
        """Reports once that every process has begun its work, which is when it touches its health file.

        Until then reports at intervals which processes it waits for.
        """
        if self._unready_since is None or self._due or self._ending:
            return
        waiting = [
            one.name for one in self._running if one.imports_handlers and not self._health_file(one).exists()
        ]
        now = time.monotonic()
        if not waiting:
            self._unready_since = None
            self._report("all processes are ready")
        elif now - self._waiting_reported_at >= WAITING_EVERY_SECONDS:
            self._waiting_reported_at = now
            self._report(f"waiting for {', '.join(waiting)} ({now - self._unready_since:.0f} s)")

    def _health_file(self, command: Command) -> Path:
        return self._home / f"{command.name}.alive"

    def restart(self) -> None:
        """Orders the processes to end. Each process starts again as soon as it has ended, without
        waiting for the others.
        """
        now = time.monotonic()
        for command, child in self._running.items():
            if command.imports_handlers and command not in self._ending:
                child.send(signal.SIGTERM)
                self._ending[command] = now + STOP_SECONDS
        for command in self._due:
            self._due[command] = now
        self._failures.clear()

    def end(self) -> None:
        """Ends all processes."""
        self._children.stop(list(self._running.values()))

    def _follow_changes(self) -> None:
        """Restarts the processes if a file has changed and the newest version can be imported.

        First waits for a poll that finds no newly saved file, because an editor may save several files.
        """
        now = fingerprint(self._watched, self._folder)
        if now == self._seen or now != self._saved:
            self._saved = now
            return
        changed = changed_files(self._seen, now)
        more = len(changed) - MOST_NAMES
        named = ", ".join(changed[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
        self._report(f"changed: {named}")
        if not self._import_handlers():
            self._report("running processes continue; they restart when the handlers can be imported")
        elif not self._prepare():
            self._report("`sluice init` failed: running processes continue; save a file to try again")
        else:
            self._report("starting the processes again")
            self.restart()

    def _prepare(self) -> bool:
        """Creates the tables, topics and queues that the handlers declare. Returns False if
        `sluice init` failed.
        """
        return self._children.run(Command("init", (*SLUICE, "init")), self._environ) == 0

    def _import_handlers(self) -> bool:
        """Imports the handlers in a separate process. Reports an error of the import unless the
        last import had the same error.
        """
        # Read before the import. A file that is saved during the import then counts as changed.
        before = fingerprint(self._watched, self._folder)
        answer = self._home / "sources.json"
        answer.unlink(missing_ok=True)
        self._children.run(Command("import", (*IMPORT, str(answer))), self._environ)
        if answer.exists():
            found = msgspec.json.decode(answer.read_text(), type=Sources)
        else:
            # A signal or the code of the handlers ended the process. The output of the process was
            # already shown.
            found = Sources(self._sources.files, "the process that imports the handlers ended too early")
        if found.error not in (None, self._sources.error) and not self._children.signals:
            self._report(str(found.error))
        self._watched = files_to_watch(found, self._sources.files, self._folder)
        self._sources = found
        now = fingerprint(self._watched, self._folder)
        self._seen = self._saved = {file: before.get(file, state) for file, state in now.items()}
        return found.error is None
