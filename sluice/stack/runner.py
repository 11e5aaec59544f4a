"""Starts and ends one service, waits until it answers, and restarts it if it does not answer."""

import shutil
import time
from pathlib import Path

from sluice.stack.patience import patient
from sluice.stack.ports import choose_ports
from sluice.stack.processes import POLL_SECONDS, ProcessId, is_alive, start_detached, stop_process, wait_for
from sluice.stack.service import Place, Report, Service, ServiceStatus, StackError, StopSignal, log_tail
from sluice.stack.stack_state import ServiceRecord, StackState

# Kafka's clean shutdown takes up to ten seconds on a busy machine.
STOP_TIMEOUT_SECONDS = 30
# A failed start is retried after these pauses: another process may take a port between the check and the
# start, and the last backends of a killed Postgres hold its memory until their statement ends.
RETRY_PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)
PROGRESS_EVERY_SECONDS = 5


class Runner:
    """Starts and ends one service of one stack.

    All methods except `status` and `place` need the stack's lock.
    """

    def __init__(self, service: Service, home: Path, state: StackState, report: Report) -> None:
        self.service = service
        self._home = home
        self._state = state
        self._report = report

    @property
    def record(self) -> ServiceRecord:
        """The service's record in the state file now."""
        return self._state.read(self.service.name)

    def place(self) -> Place:
        """Returns the service's recorded folders and ports. There are no ports before the first start."""
        record = self.record
        return Place(self._home, record.data or self._home / "data", self._home / "server.log", record.ports)

    def status(self) -> ServiceStatus:
        """Returns the current status."""
        process, place = self.record.process, self.place()
        pid = process.pid if process is not None and is_alive(process) else None
        return ServiceStatus(
            name=self.service.name,
            state="stopped" if pid is None else "running" if self.service.answers(place) else "silent",
            pid=pid,
            port=place.ports.get(self.service.port_names[0]),
            data_dir=place.data,
            log_path=place.log,
        )

    def begin(self) -> None:
        """Starts a process of the service if none runs. The process may not answer yet."""
        process = self.record.process
        if process is None or not is_alive(process) or not self._wakes(process):
            self._launch()

    def finish(self) -> None:
        """Waits until the service answers. Raises StackError with the end of the log if it does not."""
        for pause_seconds in RETRY_PAUSES_SECONDS:
            if self._await_answer():
                return
            self._report(f"{self.service.name} ended while starting; retrying")
            time.sleep(pause_seconds)
            self._launch()
        if not self._await_answer():
            raise StackError(f"{self.service.name} ended at every start; {self._log()}")

    def end(self, how: StopSignal) -> None:
        """Ends the process of the service. Idempotent."""
        process = self.record.process
        if process is not None and is_alive(process):
            self._report(f"stopping {self.service.name}")
            stop_process(process, self.service.stop_signal(how), timeout_seconds=STOP_TIMEOUT_SECONDS)

    def discard_data(self) -> None:
        """Deletes the data. The service must not run."""
        record, data = self.record, self.place().data
        shutil.rmtree(data, ignore_errors=True)
        if record.data is not None and not data.is_relative_to(self._home):
            # The parent folder was made only for this service, at a place where the service's user can read
            # it.
            shutil.rmtree(data.parent, ignore_errors=True)
            record.data = None
            self._state.write(self.service.name, record)

    def _wakes(self, process: ProcessId) -> bool:
        """Returns True if the running process answers soon; otherwise ends it."""
        place = self.place()
        if self.service.answers(place):
            return True
        self._report(f"{self.service.name} (pid {process.pid}) runs but does not answer yet")
        wait_for(
            lambda: self.service.answers(place) or not is_alive(process),
            timeout_seconds=self.service.silence_timeout_seconds,
        )
        if is_alive(process) and self.service.answers(place):
            return True
        self.end("kill")
        return False

    def _launch(self) -> None:
        service, record = self.service, self.record
        self._home.mkdir(parents=True, exist_ok=True)
        discard_parts(self._home)
        taken = self._state.ports_of_others(service.name)
        record.data = record.data or service.choose_data(self._home)
        record.ports = choose_ports(service.port_names, record.ports, taken)
        record.process = None
        self._state.write(service.name, record)
        place = self.place()
        service.prepare(place, self._report)
        self._report(f"starting {service.name} on port {record.ports[service.port_names[0]]}")

        def remember(process: ProcessId) -> None:
            record.process = process
            self._state.write(service.name, record)

        start_detached(service.launch(place), place.log, record=remember)

    def _await_answer(self) -> bool:
        """Waits until the service answers. Returns False if its process has ended first.

        Raises StackError if the service does not answer in time.
        """
        place, process = self.place(), self.record.process
        if process is None:
            return False
        started = reported = time.monotonic()
        while not self.service.answers(place):
            if not is_alive(process):
                return False
            now = time.monotonic()
            if now - started > patient(self.service.ready_timeout_seconds):
                raise StackError(
                    f"{self.service.name} did not answer in {now - started:.0f} s; {self._log()}"
                )
            if now - reported > PROGRESS_EVERY_SECONDS:
                reported = now
                self._report(f"waiting for {self.service.name} ({now - started:.0f} s)")
            time.sleep(POLL_SECONDS)
        # If this process has ended, the answer was from another process, which took the port first.
        return is_alive(process)

    def _log(self) -> str:
        path = self.place().log
        return f"its log {path} ends:\n{log_tail(path)}"


def discard_parts(home: Path) -> None:
    """Removes folders that a killed `made_whole` left.

    No other `made_whole` runs, because this needs the stack's lock.
    """
    for part in home.glob(".*.part"):
        shutil.rmtree(part, ignore_errors=True)
