"""An application whose events select a fault of their handler: it runs too long, or ends its process."""

import faulthandler
import itertools
import os
import re
import resource
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import BigInteger, Column, MetaData, String

from sluice import Effect, Entity, Event, Read, Topic, Upsert, entity_table, handles

metadata = MetaData()
acted = entity_table(
    "acted",
    metadata,
    Column("actor_id", String(64), primary_key=True),
    Column("number", BigInteger, nullable=False),
)

topics = (
    Topic("actors", entity=Entity("actor", shards=1)),
    Topic("bystanders", entity=Entity("bystander", shards=1)),
)


def computes() -> None:
    while os.getpid():
        pass


def matches_slowly() -> None:
    re.match(r"(a+)+$", "a" * 40 + "b")


def suppresses_exceptions() -> None:
    while os.getpid():
        with suppress(BaseException):
            time.sleep(1000)


def loops_with_the_gil() -> None:
    deque(itertools.repeat(0), maxlen=0)


def computes_with_the_gil() -> None:
    pow(3, 10**9)


def runs_out_of_memory() -> None:
    """Limits the memory of its process for the time of the allocation."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, hard))
    try:
        bytearray(2**30)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def exits_in_a_thread() -> None:
    threading.Thread(target=lambda: os._exit(7)).start()
    time.sleep(1000)


def is_killed_twice() -> None:
    """Kills the process in the first two attempts. A file in the folder of the test counts the attempts."""
    attempts = Path("attempts")
    with attempts.open("a") as file:
        file.write("x")
    if attempts.stat().st_size <= 2:
        os.kill(os.getpid(), signal.SIGKILL)


def waits_for_the_test() -> None:
    """Creates one file, which shows that it runs. Waits until the test creates the other file."""
    Path("handler-runs").touch()
    while not Path("handler-may-end").exists():
        time.sleep(0.01)


ACTIONS: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "computes": computes,
    "sleeps": lambda: time.sleep(1000),
    "matches slowly": matches_slowly,
    "suppresses exceptions": suppresses_exceptions,
    "waits": lambda: threading.Event().wait(),
    "loops with the GIL": loops_with_the_gil,
    "computes with the GIL": computes_with_the_gil,
    "exits": lambda: os._exit(0),
    "crashes": faulthandler._sigsegv,  # type: ignore[attr-defined]
    "aborts": os.abort,
    "is killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "waits for the test": waits_for_the_test,
    "is killed twice": is_killed_twice,
    "exits in a thread": exits_in_a_thread,
    "calls sys.exit": lambda: sys.exit(3),
    "runs out of memory": runs_out_of_memory,
}


@handles("acted")
def act(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    """Runs the action of the event. With `reads`, reads a row before the action."""
    if event.data.get("reads"):
        yield Read(acted, event.key)
    if event.data["do"] == "yields":
        while True:
            yield Read(acted, event.key)
    ACTIONS[event.data["do"]]()
    yield Upsert(acted, event.key, {"number": event.data["number"]})
