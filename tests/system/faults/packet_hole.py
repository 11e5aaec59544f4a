"""Drops all packets of existing connections in both directions, as if the server's machine had vanished."""

import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psutil

from sluice.stack import ComponentMissing

CHAIN = "sluice-hole"


@contextmanager
def packet_hole(pids: Iterable[int], port: int) -> Iterator[int]:
    """Drops all packets of the connections that these processes have to the port now.

    New connections work. Yields the number of affected connections. Requires root. Raises
    ComponentMissing without iptables, and CalledProcessError.
    """
    own = [
        connection.laddr.port
        for pid in pids
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_ESTABLISHED and connection.raddr.port == port
    ]
    _iptables("-N", CHAIN)
    try:
        for number in set(own):
            for source, target in ((number, port), (port, number)):
                ports = ("-p", "tcp", "--sport", str(source), "--dport", str(target))
                _iptables("-A", CHAIN, *ports, "-j", "DROP")
        _iptables("-I", "INPUT", "-i", "lo", "-j", CHAIN)
        try:
            yield len(set(own))
        finally:
            _iptables("-D", "INPUT", "-i", "lo", "-j", CHAIN)
    finally:
        _iptables("-F", CHAIN)
        _iptables("-X", CHAIN)


def _iptables(*words: str) -> None:
    try:
        subprocess.run(["iptables", "--wait", *words], check=True)
    except FileNotFoundError:
        raise ComponentMissing("no iptables found: install it (Debian: apt install iptables)") from None
