"""One server of the world outside as a child process, on ports that it keeps over restarts."""

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

ANSWER_SECONDS = 10.0  # for a request of ours: far more than a loaded machine needs


class NotListening(Exception):
    """The child ended before it listened; the text is what it said."""


class ProviderProcess:
    """One server in a process of its own. Its ports, free ones at first, stay the same over restarts."""

    def __init__(
        self, module: str, folder: Path, options: Sequence[str] = (), *, start: Start = start_new
    ) -> None:
        """`python -m <module> <options>`, with journal and log in `folder`; not started yet."""
        self.name = module.rpartition(".")[2]
        self.journal = folder / f"{self.name}.jsonl"
        self._module, self._words, self._start = module, ["--log", str(self.journal), *options], start
        self._folder = folder
        self._log = folder / f"{self.name}.log"
        self._ports: dict[str, int] = {}
        self._process: RunningProcess | None = None

    @property
    def process(self) -> RunningProcess:
        """The latest process: for `kill`, `stop`, and `signal`."""
        if self._process is None:
            raise NotListening(f"{self.name} was not started")
        return self._process

    def port(self, name: str = "port") -> int:
        """A port by the name under which the child told it."""
        return self._ports[name]

    @property
    def control_url(self) -> str:
        """Where `/faults` is."""
        return f"http://127.0.0.1:{self.port('port')}"

    def start(self) -> None:
        """It listens when this returns. After a kill: again, from its journal. Raises NotListening."""
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
        """Ends it if it runs."""
        if self._process is not None:
            self._process.stop()

    def set_faults(self, *faults: Fault) -> None:
        """From now on these faults and no other; none: it behaves."""
        self.control("PUT", "/faults", msgspec.to_builtins(FaultsRequest(list(faults))))

    def faults_left(self) -> list[Fault]:
        """Faults that have not struck yet."""
        answer = self.control("GET", "/faults")
        return msgspec.convert(answer, FaultsRequest).faults

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """One JSON request to the admin side; returns the JSON answer. Raises ValueError for a refusal."""
        with urllib3.PoolManager(timeout=patient(ANSWER_SECONDS), retries=False) as http:
            response = http.request(method, self.control_url + path, json=body)
        if response.status != 200:
            raise ValueError(f"{method} {path}: {response.status} {response.data.decode()}")
        return response.json()
