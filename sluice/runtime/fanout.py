"""Checks messages of Redis' pub/sub: remote control for workers, and task events for Flower.

Any client of Redis can publish such messages. For a malformed message, kombu's channel raises an exception
that ends the worker's loop. `FanoutGuard` drops the message before kombu or Celery reads it.
"""

import base64
import json
from typing import Any, NamedTuple

import structlog
from kombu.utils import json as kombu_json

from sluice.runtime.refusals import Refusals

log = structlog.get_logger("sluice.fanout")

EVENT_EXCHANGE = "celeryev"
MAX_CONTROL_BYTES = 64 * 1024
MAX_EVENTS_BYTES = 1024 * 1024
"""The size limit of a message with task events. A worker sends up to 24 task events in one message."""
MAX_NUMBER = 2**53
"""The largest clock value or timestamp that is accepted. Sluice sends no larger number."""


class Dropped(NamedTuple):
    """The reason why a message is not delivered."""

    reason: str


def read_fanout(data: bytes, exchange: str) -> dict[str, Any] | Dropped:
    """Returns the envelope of the message, or the reason to drop it. Pure.

    kombu delivers a message with a returned envelope without an exception.
    """
    if len(data) > (MAX_EVENTS_BYTES if exchange == EVENT_EXCHANGE else MAX_CONTROL_BYTES):
        return Dropped("too long")
    try:
        # kombu's decoders are not needed, because the envelope has no dates.
        envelope: dict[str, Any] = json.loads(data)
    except (ValueError, RecursionError):
        return Dropped("not JSON")
    if not _is_envelope(envelope):
        return Dropped("not a message")
    if "compression" in (envelope.get("headers") or {}):
        return Dropped("compressed")
    try:
        body: Any = kombu_json.loads(base64.b64decode(envelope["body"], validate=True))  # type: ignore[no-untyped-call]
    except Exception:  # kombu's decoders of types may raise any exception
        return Dropped("body not JSON")
    if exchange == EVENT_EXCHANGE and not _are_events(body):
        return Dropped("not an event")
    return envelope


def _is_envelope(envelope: Any) -> bool:
    """Returns True for an envelope as kombu writes it.

    Accepts only the encoding that kombu uses for the body.
    """
    if not isinstance(envelope, dict):
        return False
    properties, headers = envelope.get("properties"), envelope.get("headers")
    return (
        isinstance(properties, dict)
        and isinstance(headers, dict | None)
        and isinstance(envelope.get("body"), str)
        and envelope.get("content-type") == "application/json"
        and envelope.get("content-encoding") == "utf-8"
        and properties.get("body_encoding") == "base64"
        and isinstance(properties.get("delivery_tag"), str)
        and isinstance(properties.get("delivery_info"), dict | None)
    )


def _are_events(body: Any) -> bool:
    events = body if isinstance(body, list) else [body]
    return all(map(_is_event, events))


def _is_event(event: Any) -> bool:
    """Checks the fields that Celery's receiver of events and Flower read without a check."""
    if not isinstance(event, dict):
        return False
    kind = event.get("type")
    return (
        isinstance(kind, str)
        and "-" in kind
        and isinstance(event.get("hostname"), str)
        and _is_number(event.get("timestamp"))
        and _is_number(event.get("utcoffset", 0))
        and _is_number(event.get("local_received", 0))
        and _is_number(event.get("freq", 0))
        and isinstance(event.get("clock", 0), int)
        and _is_number(event.get("clock", 0))
        and (not kind.startswith("task-") or isinstance(event.get("uuid"), str))
    )


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and abs(value) < MAX_NUMBER  # the comparison is also false for NaN
    )


def _text(name: bytes | str) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name


def _log_dropped(reasons: dict[str, int]) -> None:
    log.warning("broadcast messages dropped", count=sum(reasons.values()), reasons=reasons)


dropped = Refusals(_log_dropped)
"""The counts of this process."""


class FanoutGuard:
    """A base class of Sluice's channel that overrides a method of kombu's channel."""

    connection: Any
    connection_errors: Any
    _fanout_to_queue: dict[str, str]
    _in_listen: Any

    def _receive_one(self, subscriber: Any) -> bool:
        """Reads one answer of pub/sub. Returns True if a message was delivered.

        Replaces kombu's method. For a message that it cannot read, kombu's method raises exceptions, such as
        Empty, and not every caller catches them.
        """
        try:
            answer = subscriber.parse_response()
        except self.connection_errors:
            self._in_listen = None
            raise
        if not isinstance(answer, list | tuple):
            return False
        payload = self._handle_message(subscriber, answer)  # type: ignore[attr-defined]
        if not _text(payload["type"]).endswith("message") or not payload["data"]:
            return False
        channel = _text(payload["channel"])
        if channel.startswith("/"):
            channel = channel.partition(".")[2]
        exchange = channel.split("/", 1)[0]
        queue = self._fanout_to_queue.get(exchange)
        if queue is None:
            return False  # the subscription was cancelled while the message was in flight
        message = read_fanout(payload["data"], exchange)
        if isinstance(message, Dropped):
            dropped.note(message.reason)
            return False
        self.connection._deliver(message, queue)
        return True
