"""Redis servers beside that of the stack: with TLS, as a replica, as a cluster, and Sentinels."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from sluice.stack import ComponentMissing
from sluice.stack.ports import LOOPBACK, choose_ports, is_listening
from sluice.stack.redis_server import find_redis_server
from tests.waiting import wait_until

STOP_SECONDS = 10


@dataclass
class RedisServers:
    """Servers with their data in one folder. `stop_all` ends them."""

    folder: Path
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def choose_port(self) -> int:
        """Returns a free port."""
        return choose_ports(("redis",), {}, set(self.processes))["redis"]

    def start(self, *options: str, port: int = 0) -> int:
        """Starts a server with these options, and returns its port."""
        port = port or self.choose_port()
        self._start(port, ["--bind", LOOPBACK, "--port", str(port), "--save", "", *options])
        return port

    def start_cluster(self) -> int:
        """Starts a server in cluster mode, and returns its port. It also listens at the port 10,000 above."""
        port = next(port for port in iter(self.choose_port, None) if not is_listening(port + 10_000))
        return self.start("--cluster-enabled", "yes", port=port)

    def start_with(self, config: Path, *options: str) -> int:
        """Starts a server with a file of configuration, and returns its port."""
        port = self.choose_port()
        self._start(port, [str(config), "--bind", LOOPBACK, "--port", str(port), *options])
        return port

    def start_tls(self, certificate: Path, key: Path, ca: Path, *options: str) -> int:
        """Starts a server that accepts TLS only. Raises ComponentMissing if the program has no TLS."""
        port = self.choose_port()
        files = [
            "--tls-cert-file",
            str(certificate),
            "--tls-key-file",
            str(key),
            "--tls-ca-cert-file",
            str(ca),
        ]
        words = ["--bind", LOOPBACK, "--port", "0", "--tls-port", str(port), "--save", ""]
        self._start(port, [*words, *files, *options])
        return port

    def start_sentinel(self, lines: str, *tls: Path) -> int:
        """Starts a Sentinel with these lines of configuration, and returns its port.

        `tls`: the files of certificate, key and authority, if it accepts TLS only.
        """
        port = self.choose_port()
        file = self._folder(port) / "sentinel.conf"
        listen = f"port {port}"
        if tls:
            names = ("tls-cert-file", "tls-key-file", "tls-ca-cert-file")
            files = "\n".join(f"{name} {path}" for name, path in zip(names, tls, strict=True))
            listen = f"port 0\ntls-port {port}\n{files}"
        file.write_text(f"bind {LOOPBACK}\n{listen}\n{lines}\n")
        self._start(port, [str(file), "--sentinel"])
        return port

    def kill(self, port: int) -> None:
        """Kills a server."""
        process = self.processes.pop(port)
        process.kill()
        process.wait()

    def stop_all(self) -> None:
        """Ends the servers. Idempotent."""
        for port in list(self.processes):
            self.kill(port)

    def _folder(self, port: int) -> Path:
        folder = self.folder / str(port)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _start(self, port: int, words: list[str]) -> None:
        folder = self._folder(port)
        log = folder / "log"
        with log.open("wb") as output:
            self.processes[port] = started = subprocess.Popen(
                [str(find_redis_server()), *words], cwd=folder, stdout=output, stderr=output
            )
        wait_until(
            lambda: is_listening(port) or started.poll() is not None,
            timeout_seconds=30,
            what="redis-server listens",
        )
        if started.poll() is not None:
            text = log.read_text(errors="replace")
            if "tls" in text and "Bad directive" in text:
                raise ComponentMissing("redis-server has no TLS: install one with TLS (Debian: redis-server)")
            raise AssertionError(f"redis-server ended: {text}")


@contextmanager
def redis_servers(folder: Path) -> Iterator[RedisServers]:
    """Yields servers, and ends them."""
    servers = RedisServers(folder)
    try:
        yield servers
    finally:
        servers.stop_all()
