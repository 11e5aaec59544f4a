"""Runs one external server of the shop example as a child process. After a restart, it has the same ports."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import urllib3

from examples.shop.outside.faults import Fault, FaultsRequest
from sluice.stack.patience import patient
from sluice.testing.servers.local_run import RunningProcess
from sluice.testing.servers.processes import Start, start_new
from tests.harness.processes import PROJECT

ANSWER_SECONDS = 10.0  # timeout of a control request, long enough for a loaded machine


class NotListening(Exception):
    """The child process ended before it listened on its ports. The text is the log of the child."""


class ProviderProcess:
    """One server in a separate process. The first start chooses free ports; restarts use the same ports."""

    def __init__(
        self, module: str, folder: Path, options: Sequence[str] = (), *, start: Start = start_new
    ) -> None:
        """Prepares `python -m <module> <options>`, with journal and log in `folder`, without starting it."""
        self.name = module.rpartition(".")[2]
        self.journal = folder / f"{self.name}.jsonl"
        self._module, self._words, self._start = module, ["--log", str(self.journal), *options], start
        self._folder = folder
        self._log = folder / f"{self.name}.log"
        self._ports: dict[str, int] = {}
        self._process: RunningProcess | None = None

    @property
    def process(self) -> RunningProcess:
        """The latest process, for `kill`, `stop` and `signal`. Raises NotListening before the first start."""
        if self._process is None:
            raise NotListening(f"{self.name} was not started")
        return self._process

    def port(self, name: str = "port") -> int:
        """Returns the port that the child process reported under this name."""
        return self._ports[name]

    @property
    def control_url(self) -> str:
        """The base URL of `/faults`."""
        return f"http://127.0.0.1:{self.port('port')}"

    def start(self) -> None:
        """Starts the server and waits until it listens. After a kill, the server reads its journal.

        Raises NotListening.
        """
        ports = [w for name, port in self._ports.items() for w in (f"--{name.replace('_', '-')}", str(port))]
        read, write = os.pipe()
        with (
            open(read, "rb") as told,
            open(write, "wb") as output,
            self._log.open("ab") as log,
            open(os.devnull, "rb") as nothing,
        ):
            child = self._start(
                self._module,
                [*self._words, *ports],
                environ=os.environ | {"PYTHONPATH": str(PROJECT)},
                folder=self._folder,
                files=(nothing.fileno(), output.fileno(), log.fileno()),
            )
            self._process = RunningProcess(self.name, child, self._log)
            output.close()
            line = told.readline()
        if not line:
            child.wait()
            raise NotListening(f"{self.name}:\n{self._process.tail()}")
        self._ports = json.loads(line)

    def end(self) -> None:
        """Ends the server if it runs."""
        if self._process is not None:
            self._process.stop()

    def set_faults(self, *faults: Fault) -> None:
        """Replaces all faults of the server by these faults. Without arguments, removes all faults."""
        self.control("PUT", "/faults", msgspec.to_builtins(FaultsRequest(list(faults))))

    def faults_left(self) -> list[Fault]:
        """Returns the faults that have not occurred yet."""
        answer = self.control("GET", "/faults")
        return msgspec.convert(answer, FaultsRequest).faults

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """Sends a JSON request to the control URL. Returns the JSON answer. If refused, raises ValueError."""
        with urllib3.PoolManager(timeout=patient(ANSWER_SECONDS), retries=False) as http:
            response = http.request(method, self.control_url + path, json=body)
        if response.status != 200:
            raise ValueError(f"{method} {path}: {response.status} {response.data.decode()}")
        return response.json()
