"""The provider's state: its captures, and for each idempotency key the request and its answer. No I/O.

The rules are from two sources. The IETF draft draft-ietf-httpapi-idempotency-key-header: 400 without a key,
422 if the key was used with another request, 409 while the first request is in process. Stripe's "Idempotent
requests": after execution has begun, every answer is stored, including a 500. The answer is not stored
if the request is invalid, or if another request with the same key is in process. Keys may be forgotten after
24 hours.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from examples.shop.provider.lines import Answer, Capture, CaptureRequest, KeysForgotten, Line, Request

CARD_LIMIT_CENTS = 1_000_000  # 10,000.00: larger amounts are declined, so that a test can cause a refusal


@dataclass
class _Key:
    request: CaptureRequest
    first_at: datetime
    answer: Answer | None = None  # None while the request is in process


@dataclass
class Book:
    """The state of the provider. Callers pass the current time. Not thread-safe."""

    key_lifetime: timedelta
    captures: list[Capture] = field(default_factory=list)
    received: Counter[str] = field(default_factory=Counter)
    """Key → number of requests received and not yet answered, which may still capture."""
    _keys: dict[str, _Key] = field(default_factory=dict)

    def begin(self, key: str, request: CaptureRequest, now: datetime) -> tuple[Answer, bool] | None:
        """Takes the key and returns None if the caller must execute the request and then call `finish`.

        Else returns the answer, and True if it is a replay.
        """
        known = self._keys.get(key)
        if known is None or (known.answer is not None and now - known.first_at > self.key_lifetime):
            self._keys[key] = _Key(request, now)
            return None
        if known.request != request:
            return error_answer(422, "key_reused", "this key was used with another request"), False
        if known.answer is None:
            return error_answer(409, "in_process", "a request with this key is in process"), False
        return known.answer, True

    def finish(self, key: str, answer: Answer) -> None:
        """Stores the answer of the key."""
        self._keys[key].answer = answer

    def abandon(self, key: str) -> None:
        """Releases the key of a request that failed before the capture."""
        del self._keys[key]

    def next_capture(self, key: str, request: CaptureRequest, now: datetime) -> Capture:
        """Returns the next capture. The caller writes it to the journal and then calls `add`."""
        number = len(self.captures) + 1
        return Capture(now, f"cap_{number}", key, request.reference, request.amount_cents)

    def add(self, capture: Capture) -> None:
        """Adds a capture that was written to the journal."""
        self.captures.append(capture)

    def forget_keys(self) -> None:
        """Forgets all keys except those in process. Keeps the captures."""
        self._keys = {key: known for key, known in self._keys.items() if known.answer is None}

    def find(self, *, reference: str | None, key: str | None) -> list[Capture]:
        """Returns the captures with this reference and this key, oldest first. None stands for every value.

        Captures of forgotten keys are included.
        """
        return [c for c in self.captures if reference in (None, c.reference) and key in (None, c.key)]

    def restore(self, lines: Iterable[Line]) -> None:
        """Restores the state from the lines of the journal.

        If the journal has a capture but no line of its request, the provider stopped before it
        answered. The stored answer is then made from the capture.
        """
        for line in lines:
            match line:
                case Capture():
                    self.add(line)
                    request = CaptureRequest(line.reference, line.amount_cents)
                    self._keys[line.key] = _Key(request, line.at, captured_answer(line))
                case Request(key=str(key), request=CaptureRequest() as asked, stored=Answer() as answer):
                    self._keys[key] = _Key(asked, line.at, answer)
                case Request():
                    pass
                case KeysForgotten():
                    self.forget_keys()


def captured_answer(capture: Capture) -> Answer:
    """Returns the answer of a capture, with status 201."""
    return Answer(201, capture_body(capture))


def capture_body(capture: Capture) -> dict[str, object]:
    """Returns the JSON body of a capture."""
    return {
        "capture_id": capture.capture_id,
        "reference": capture.reference,
        "amount_cents": capture.amount_cents,
        "captured_at": capture.at.isoformat(),
    }


def error_answer(status: int, code: str, message: str) -> Answer:
    """Returns an error: `{"error": {"code": …, "message": …}}`."""
    return Answer(status, {"error": {"code": code, "message": message}})
