"""Processes a request for a capture: takes the key, captures, writes the journal, answers; causes faults."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from examples.shop.outside.faults import Fault, FaultPlan, Moment
from examples.shop.outside.journal import Journal
from examples.shop.provider.book import CARD_LIMIT_CENTS, Book, captured_answer, error_answer
from examples.shop.provider.lines import Answer, Capture, CaptureRequest, KeysForgotten, Line, Request

MOMENTS: frozenset[Moment] = frozenset(("before", "during", "after"))
"""before: the key is not read yet. during: the key is taken, but nothing is captured yet. after: captured."""


class Reply(NamedTuple):
    """The answer, or None to close the connection. `stored` is the answer to store for the key, if any."""

    answer: Answer | None
    replayed: bool = False
    stored: Answer | None = None
    late_seconds: float = 0


class Desk:
    """Answers requests. Thread-safe; holds no lock during a delay."""

    def __init__(self, book: Book, journal: Journal[Line], faults: FaultPlan) -> None:
        self._book, self._journal, self._faults = book, journal, faults
        self._lock = threading.Lock()

    def answer(self, key: str | None, body: bytes) -> Reply:
        """Returns the reply to send, after it was written to the journal and its answer was stored."""
        request = _read_request(body)
        asked = request if isinstance(request, CaptureRequest) else None
        with self._receiving(key):
            reply = self._reply(key, request)
            status = None if reply.answer is None else reply.answer.status
            self._journal.append(Request(_now(), key, asked, status, reply.replayed, reply.stored))
            if key and reply.stored is not None:
                with self._lock:
                    self._book.finish(key, reply.stored)
        time.sleep(reply.late_seconds)
        return reply

    def find(self, *, reference: str | None, key: str | None) -> tuple[list[Capture], bool]:
        """Returns the captures, and True if a request with that key is in process and may still capture."""
        with self._lock:
            return self._book.find(reference=reference, key=key), self._book.received[key or ""] > 0

    def forget_keys(self) -> None:
        """Forgets all keys, as if their lifetime were over."""
        with self._lock:
            self._journal.append(KeysForgotten(_now()))
            self._book.forget_keys()

    def _reply(self, key: str | None, request: CaptureRequest | Answer) -> Reply:
        match self._faults.take("before", _subject(request)):
            case Fault(harm="delay", seconds=seconds):
                time.sleep(seconds)
            case Fault(harm="error") as fault:
                # Simulates a failing proxy in front of the provider: the provider does not take the key.
                return Reply(_failure(fault))
            case Fault(harm="drop"):
                return Reply(None)
        if not key:
            return Reply(error_answer(400, "key_missing", "a capture requires an Idempotency-Key"))
        if isinstance(request, Answer):
            return Reply(request)
        with self._lock:
            earlier = self._book.begin(key, request, _now())
        if earlier is None:
            executed = self._execute(key, request)
            return Reply(None) if executed is None else self._after(request, Reply(executed, stored=executed))
        answer, replayed = earlier
        return self._after(request, Reply(answer, replayed=True)) if replayed else Reply(answer)

    def _execute(self, key: str, request: CaptureRequest) -> Answer | None:
        match self._faults.take("during", request.reference):
            case Fault(harm="delay", seconds=seconds):
                time.sleep(seconds)
            case Fault(harm="error") as fault:
                return _failure(fault)
            case Fault(harm="drop"):
                with self._lock:
                    self._book.abandon(key)
                return None
        if request.amount_cents > CARD_LIMIT_CENTS:
            return error_answer(402, "card_declined", f"no card allows more than {CARD_LIMIT_CENTS} cents")
        with self._lock:
            capture = self._book.next_capture(key, request, _now())
            self._journal.append(capture)
            self._book.add(capture)
        return captured_answer(capture)

    def _after(self, request: CaptureRequest, reply: Reply) -> Reply:
        match self._faults.take("after", request.reference):
            case Fault(harm="delay", seconds=seconds):
                return reply._replace(late_seconds=seconds)
            case Fault(harm="error") as fault:
                failure = _failure(fault)
                return Reply(failure, stored=None if reply.replayed else failure)
            case Fault(harm="drop"):
                return reply._replace(answer=None)
        return reply

    @contextmanager
    def _receiving(self, key: str | None) -> Iterator[None]:
        with self._lock:
            self._book.received[key or ""] += 1
        try:
            yield
        finally:
            with self._lock:
                self._book.received[key or ""] -= 1


def _read_request(body: bytes) -> CaptureRequest | Answer:
    try:
        request = msgspec.json.decode(body, type=CaptureRequest)
    except msgspec.DecodeError as error:
        return error_answer(422, "invalid", str(error))
    if not request.reference or request.amount_cents < 1:
        return error_answer(422, "invalid", "requires a reference and an amount of at least 1 cent")
    return request


def _subject(request: CaptureRequest | Answer) -> str:
    return request.reference if isinstance(request, CaptureRequest) else ""


def _failure(fault: Fault) -> Answer:
    return error_answer(
        fault.status or 500, "failed", f"a fault was requested at the moment {fault.moment!r}"
    )


def _now() -> datetime:
    return datetime.now(UTC)
