"""Handlers that take longer than the time limit of one event, and one quick handler."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from sluice.tasks.api import Effect, Emit, Increment, Read
from tests.unit.tasks.scripted import INTEGER

LIMIT = 0.1
EFFECTS = 50
SEEN = Emit("seen", key=None, type="seen", data={})
Effects = Iterator[Effect]


def computes() -> Effects:
    while EFFECTS:
        pass
    yield SEEN


def computes_between_effects() -> Effects:
    yield SEEN
    while True:
        pass


def sleeps() -> Effects:
    time.sleep(1000)
    yield SEEN


def matches() -> Effects:
    re.match(r"(a+)+$", "a" * 40 + "b")
    yield SEEN


def waits_for_a_lock() -> Effects:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()
    yield SEEN


def joins_a_thread() -> Effects:
    may_end = threading.Event()
    thread = threading.Thread(target=may_end.wait)
    thread.start()
    try:
        thread.join()
    finally:
        may_end.set()
    yield SEEN


def waits_for_a_thread() -> Effects:
    threading.Event().wait()
    yield SEEN


def reads_a_socket() -> Effects:
    near, far = socket.socketpair()
    with near, far:
        near.recv(1)
    yield SEEN


def waits_for_a_child() -> Effects:
    import subprocess

    with subprocess.Popen(["sleep", "30"]) as child:
        try:
            child.wait()
        finally:
            child.kill()
    yield SEEN


def recurses_for_ever() -> Effects:
    def count(depth: int) -> int:
        return sum(count(depth - 1) for _ in range(1000)) if depth else 0

    count(100)
    yield SEEN


def swallows_once() -> Effects:
    with suppress(BaseException):
        time.sleep(1000)
    yield SEEN


def swallows_often() -> Effects:
    for _ in range(5):
        with suppress(BaseException):
            time.sleep(1000)
    yield SEEN


def takes_long_to_end() -> Effects:
    try:
        yield SEEN
        yield SEEN
    finally:
        time.sleep(1000)


def takes_long_to_close() -> Effects:
    try:
        yield Read(INTEGER, "k")
    finally:
        time.sleep(1000)


def takes_long_together() -> Effects:
    for _ in range(40):
        time.sleep(LIMIT / 10)
        yield SEEN


def yields_slow_effects() -> Effects:
    yield Increment(INTEGER, "k", {"count": 1}, floor=0, otherwise=slow_effects())


def slow_effects() -> Any:
    time.sleep(1000)
    yield SEEN


def after_reading() -> Effects:
    yield Read(INTEGER, "k")
    time.sleep(1000)
    yield SEEN


def quick() -> Effects:
    yield SEEN


SLOW = [
    computes,
    computes_between_effects,
    sleeps,
    matches,
    waits_for_a_lock,
    joins_a_thread,
    waits_for_a_thread,
    reads_a_socket,
    waits_for_a_child,
    recurses_for_ever,
    swallows_once,
    swallows_often,
    takes_long_to_end,
    takes_long_to_close,
    takes_long_together,
    yields_slow_effects,
    after_reading,
]
