"""Free ports of the loopback address."""

import random
import socket
from functools import partial

from sluice.stack.processes import wait_for

LOOPBACK = "127.0.0.1"

# These ports are below the ports for outgoing connections, which begin at 32768 on Linux and 49152 on macOS.
# Otherwise a client could take the port of a service during a restart of the service.
FIRST_PORT, LAST_PORT = 20_000, 32_000

# A killed process counts as dead when its first thread has ended. Its last thread may hold the port a little
# longer.
RELEASE_TIMEOUT_SECONDS = 3


def is_free(port: int) -> bool:
    """Returns True if a server could listen on the port now."""
    with socket.socket() as probe:
        # Servers set this option too. It ignores connections of the previous server that are still closing.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def is_listening(port: int) -> bool:
    """Returns True if a process accepts connections on the port now."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((LOOPBACK, port)) == 0


def choose_ports(names: tuple[str, ...], wished: dict[str, int], taken: set[int]) -> dict[str, int]:
    """Returns a free port per name that is not in `taken`.

    Prefers the port in `wished`, and waits for it shortly.
    """
    chosen: dict[str, int] = {}
    for name in names:
        port = wished.get(name, 0)
        if port:
            wait_for(partial(is_free, port), timeout_seconds=RELEASE_TIMEOUT_SECONDS)
        while not port or port in taken or not is_free(port):
            port = random.randrange(FIRST_PORT, LAST_PORT)
        chosen[name] = port
        taken = taken | {port}
    return chosen
