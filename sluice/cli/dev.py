"""`sluice dev`: local servers and all processes in one terminal, restarted when a handler changes."""

import fcntl
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from sluice.admin.decisions import OperationRefused
from sluice.cli.dev_log import COLOURS_OF_PROCESSES, read_lines, uses_colour
from sluice.cli.dev_loop import DevLoop, Refused
from sluice.cli.dev_processes import NAMES, Children, commands
from sluice.cli.dev_servers import DevServers
from sluice.cli.hints import shell_hint, wipe_hint
from sluice.cli.output import say_log
from sluice.runtime.settings import PREFIX
from sluice.stack.ports import choose_ports

HOME = Path(".sluice/dev")
OWN_NAME = "dev"
REFUSED_EXIT_CODE = 2
FLOWER_PORT = 5555
# Every worker warns if its user is root, as in a container for development.
ROOT_WARNING = "ignore:You're running the worker with superuser privileges"


def dev(
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help=f"Do not start this process: {', '.join(NAMES)}. May be repeated."),
    ] = None,
    flower_port: Annotated[
        int,
        typer.Option(
            min=1, max=65_535, help="Port of Flower. If the port is in use, Flower uses a free port."
        ),
    ] = FLOWER_PORT,
) -> None:
    """Run the local servers and all processes in this terminal, for development.

    Starts Kafka, Postgres and Redis (or uses the servers whose addresses are
    in the environment), runs `sluice init`, and starts every process.
    Each line of the logs begins with the name of the process.

    When a file of your handlers changes, the processes restart. If
    the file cannot be imported, the error is printed, and the running
    processes continue.

    Ctrl-C or SIGTERM ends the processes and the servers that the command
    started, with exit code 0. The data stay in .sluice/stack. A second
    Ctrl-C kills processes that do not end. Exit code 2 if the start
    fails.

    Example: sluice dev --without flower
    """
    left_out = set(without or ())
    if unknown := left_out - set(NAMES):
        raise typer.BadParameter(
            f"--without {min(unknown)}: unknown process; the processes are {', '.join(NAMES)}"
        )
    terminal, last_line = Terminal(), "everything has ended"
    with one_per_folder(HOME):
        children = Children(terminal.show)
        children.take_signals()
        try:
            loop = DevLoop(
                children,
                terminal.report,
                environ=environment(os.environ),
                folder=Path.cwd(),
                home=HOME.absolute(),
            )
            loop.check_handlers()
            servers = DevServers(os.environ, terminal.report)
            last_line = servers.last_line()
            with servers.running() as urls:
                port, flower_hint = _choose_flower(flower_port, left_out)
                started = [command for command in commands(port) if command.name not in left_out]
                handlers = os.environ.get(f"{PREFIX}HANDLERS", "")
                hints = [shell_hint(handlers, are_local=servers.are_local), flower_hint]
                advice = f"; {wipe_hint()}" if servers.are_local else ""
                loop.run(started, urls, hints=hints, advice=advice, is_over=lambda: terminal.is_closed)
        except KeyboardInterrupt:
            terminal.report("interrupted")
        except Refused as refused:
            terminal.report(str(refused))
            raise typer.Exit(REFUSED_EXIT_CODE) from None
    terminal.report(last_line)


class Terminal:
    """The standard output of `sluice dev`. Each line begins with the coloured name of the process
    that printed it.
    """

    def __init__(self) -> None:
        self._is_coloured = uses_colour(os.environ, is_terminal=sys.stdout.isatty())
        self._colours = dict(zip(NAMES, COLOURS_OF_PROCESSES, strict=True))
        self._width = max(map(len, NAMES))
        self.is_closed = False
        """True if nothing can be printed any more: the terminal or the reader of the pipe is closed."""

    def show(self, name: str, raw: str) -> None:
        """Shows a line that a process printed."""
        for line in read_lines(raw):
            self._print(name, line.text, line.colour)

    def report(self, text: str) -> None:
        """Shows a message of `sluice dev` itself."""
        for line in text.splitlines():
            self._print(OWN_NAME, line, None)

    def _print(self, name: str, text: str, colour: str | None) -> None:
        if self.is_closed:
            return
        colours = (self._colours.get(name, "white"), colour) if self._is_coloured else None
        try:
            say_log(f"{name:<{self._width}} |", text, colours=colours)
        except OSError:
            self.is_closed = True


@contextmanager
def one_per_folder(home: Path) -> Iterator[None]:
    """Raises OperationRefused if another `sluice dev` runs in this folder. The lock ends with its process."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise OperationRefused(
                f"`sluice dev` already runs in this folder, as process {lock.read()}; press Ctrl-C in"
                " the terminal of that process"
            ) from None
        (home / "lock").write_text(str(os.getpid()))
        yield


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of the processes. It selects JSON logs, because `sluice dev` parses them."""
    # All processes would use the same port for their metrics, and only one of them can open it.
    environ = {name: value for name, value in inherited.items() if name != f"{PREFIX}METRICS_PORT"}
    filters = [inherited["PYTHONWARNINGS"]] if inherited.get("PYTHONWARNINGS") else []
    return environ | {
        f"{PREFIX}LOG_FORMAT": "json",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": ",".join([*filters, ROOT_WARNING]),
    }


def _choose_flower(wished: int, left_out: set[str]) -> tuple[int, str]:
    """Returns a free port, and a line about Flower. Leaves Flower out if it is not installed."""
    if "flower" in left_out:
        return wished, "Flower is left out"
    if importlib.util.find_spec("flower") is None:
        left_out.add("flower")
        return wished, "Flower is not installed; to install it: pip install 'sluice-kafka[flower]'"
    port = choose_ports(("flower",), {"flower": wished}, set())["flower"]
    return port, f"Flower: http://127.0.0.1:{port}"
