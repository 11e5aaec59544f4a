"""Reads CPU seconds and memory of processes and their descendants from /proc."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
KIB_PER_MIB = 1024


class ProcessTimes(NamedTuple):
    """The times of one process. `spent_ticks` are the CPU ticks of the process and of its reaped children."""

    parent: int
    spent_ticks: int


def parse_stat(text: str) -> ProcessTimes:
    """Parses the content of /proc/PID/stat."""
    # The second field is the name in parentheses and may hold anything, also spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return ProcessTimes(int(fields[1]), sum(map(int, fields[11:15])))


def read_times() -> dict[int, ProcessTimes]:
    """Returns the times of all running processes of this machine, by pid."""
    found: dict[int, ProcessTimes] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                found[int(name)] = parse_stat(Path(f"/proc/{name}/stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue  # The process ended after the listing. The ticks of its parent include its ticks.
    return found


def spent_seconds(times: Mapping[int, ProcessTimes], roots: Iterable[int]) -> float:
    """Returns the CPU seconds of these processes and their descendants, including ended children."""
    children: dict[int, list[int]] = {}
    for pid, one in times.items():
        children.setdefault(one.parent, []).append(pid)
    ticks, waiting, seen = 0, list(roots), set[int]()
    while waiting:
        pid = waiting.pop()
        if pid not in seen and pid in times:
            seen.add(pid)
            ticks += times[pid].spent_ticks
            waiting += children.get(pid, [])
    return ticks / TICKS_PER_SECOND


def read_memory_mib(pid: int) -> tuple[float, float]:
    """Returns the current and the peak resident memory of one process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = dict(line.split(":", 1) for line in status.splitlines())
    now, peak = (int(found[name].split()[0]) / KIB_PER_MIB for name in ("VmRSS", "VmHWM"))
    return now, peak
