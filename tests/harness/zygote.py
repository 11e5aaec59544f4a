"""A server that has imported the modules and forks a process per request, so that processes start fast.

Start it with `python -m tests.harness.zygote FD`; FD is one end of a SOCK_SEQPACKET pair. A request is one
packet: a Request as JSON, with four file descriptors: standard input, output, error, and a pipe. The server
writes the process id to the pipe and, after the process has ended, its exit code; each is one line. When the
other end of the pair is closed, the server and its children end.
"""

import ctypes
import gc
import importlib
import os
import runpy
import select
import signal
import socket
import sys
import time
from contextlib import suppress

import msgspec

LARGEST_REQUEST = 1 << 18
_PR_SET_PDEATHSIG = 1
# Modules that the bridge, the Celery processes and the command line import, but no module of an application.
PRELOADED = (
    "celery.__main__",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.bin.celery",
    "celery.concurrency.prefork",
    "celery.concurrency.solo",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.consumer",
    "examples.shop.mail.__main__",
    "examples.shop.provider.__main__",
    "kombu.transport.redis",
    "psycopg2.extras",
    "rich.progress",
    "sluice.bridge.__main__",
    "sluice.kafka_io.confluent_consumer",
    "sluice.kafka_io.kafka_python_consumer",
    "sluice.runtime.app",
    "sluice.tasks.celery_tasks",
    "sluice.worker.beat",
    "sluice.worker.health_step",
    "sluice.worker.lease_step",
    "sluice.worker.reconnecting_consumer",
    "sluice.worker.startup",
    "sqlalchemy.dialects.postgresql.psycopg2",
)
# Only standard error is line-buffered.
STANDARD_FILES = ((0, "stdin", "r", -1), (1, "stdout", "w", -1), (2, "stderr", "w", 1))


class Request(msgspec.Struct):
    """A request to run `python -m module words…` in `folder`, with `environ` as the whole environment."""

    module: str
    words: list[str]
    environ: dict[str, str]
    folder: str


def preload() -> None:
    """Imports the modules that processes import when they start."""
    from sluice.cli.main import COMMANDS

    for name in (*PRELOADED, *(place.partition(":")[0] for place in COMMANDS.values())):
        importlib.import_module(name)
    # A child runs one of these modules as `__main__`, so the server imports none of them under its own name.
    for name in [name for name in sys.modules if name.endswith(".__main__")]:
        del sys.modules[name]
    del sys.modules["sluice.cli.main"]
    # Without the freeze, the last garbage collection of a child copies all this memory: half a second of CPU.
    gc.collect()
    gc.freeze()


def serve(control: socket.socket) -> Request:
    """Forks a child per request until the socket is closed. Returns only in a child, with the request."""
    children: dict[int, int] = {}
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([control.fileno(), ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            report_ended(children)
        if control.fileno() in ready:
            packet, descriptors, _, _ = socket.recv_fds(control, LARGEST_REQUEST, 4)
            if not packet:
                sys.exit()
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                for number in (ended, wake, *children.values(), descriptors.pop()):
                    os.close(number)
                return become(msgspec.json.decode(packet, type=Request), descriptors)
            children[pid] = descriptors.pop()
            os.write(children[pid], b"%d\n" % pid)
            for number in descriptors:
                os.close(number)


def report_ended(children: dict[int, int]) -> None:
    """Writes the exit codes of the children that have ended."""
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            pipe = children.pop(pid)
            with suppress(BrokenPipeError):  # The test may have dropped the process.
                os.write(pipe, b"%d\n" % os.waitstatus_to_exitcode(status))
            os.close(pipe)


def become(request: Request, descriptors: list[int]) -> Request:
    """Sets the session, files, folder, environment and paths of this process as the request states."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for target, number in enumerate(descriptors):
        os.dup2(number, target)
        os.close(number)
    _open_standard_files()
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environ)
    time.tzset()
    # The same order as for `python -m`: the folder, PYTHONPATH, and the interpreter's own paths.
    given = [path for path in request.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [request.folder, *given, *sys.path[1:]]
    sys.argv[1:] = request.words
    return request


def _open_standard_files() -> None:
    # The child makes new file objects, because those of the server are unsuitable: for example, seekable.
    for number, name, mode, buffering in STANDARD_FILES:
        old = getattr(sys, name)
        new = os.fdopen(number, mode, buffering, encoding=old.encoding, errors=old.errors, closefd=False)
        setattr(sys, name, new)
        setattr(sys, f"__{name}__", new)


if __name__ == "__main__":
    preload()
    runpy.run_module(
        serve(socket.socket(fileno=int(sys.argv[1]))).module, run_name="__main__", alter_sys=True
    )
