"""A TCP proxy to Postgres. It cuts connections before or after the server receives a COMMIT."""

import socket
import threading
from contextlib import suppress
from typing import Literal

from sluice.stack.patience import patient

COMMIT = b"COMMIT"
When = Literal["before", "after"]


class CuttingProxy:
    """Forwards all data. Cuts the connections that send the next COMMITs, as many as `arm` requests."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._armed: list[When] = []
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def arm(self, *cuts: When) -> None:
        """Requests these cuts, one for each of the next COMMITs."""
        with self._lock:
            self._armed += cuts

    @property
    def left(self) -> int:
        """The number of requested cuts that have not happened yet."""
        return len(self._armed)

    def close(self) -> None:
        """Ends all connections and threads."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        # Ends the accepting thread first, because it adds sockets.
        self._threads[0].join(patient(30))
        for one in self._sockets:
            _end(one)
        for thread in self._threads:
            thread.join(patient(30))

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._sockets += [client, server]
            self._start(self._pass, client, server, True)
            self._start(self._pass, server, client, False)

    def _pass(self, source: socket.socket, target: socket.socket, from_client: bool) -> None:
        try:
            while data := source.recv(65_536):
                cut = self._take() if from_client and COMMIT in data else None
                if cut == "before":
                    break
                if cut == "after":
                    # The client does not receive the answer.
                    _end(source)
                target.sendall(data)
                if cut == "after":
                    target.recv(65_536)
                    break
        except OSError:
            pass
        _end(source)
        _end(target)

    def _take(self) -> When | None:
        with self._lock:
            return self._armed.pop(0) if self._armed else None


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
