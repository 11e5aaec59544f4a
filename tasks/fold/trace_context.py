"""Passes the W3C trace context of an event on to the outgoing events that it causes. Pure."""

import re
from collections.abc import Iterable
from hashlib import blake2b
from uuid import UUID

MAX_STATE_CHARACTERS = 512
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE, _NO_PARENT, _INVALID_VERSION = "0" * 32, "0" * 16, "ff"
_SAMPLED = 1


def carried_trace(headers: Iterable[tuple[str, bytes | None]], identity: UUID) -> dict[str, str]:
    """Returns the trace headers for the outgoing events of an event with these headers and this identity.

    For an invalid `traceparent` the trace is restarted, as the specification requires: a new `traceparent`
    replaces it and `tracestate` is dropped. The new value is derived from the identity, so that a repeat has
    the same bytes. An event without `traceparent` starts no trace. An invalid `tracestate` is dropped.
    """
    parents: list[bytes] = []
    states: list[bytes] = []
    values = {"traceparent": parents, "tracestate": states}
    for name, value in headers:
        kept = values.get(name.lower())
        if kept is not None and value is not None:
            kept.append(value)
    if not parents:
        return {}
    parent = _readable_parent(parents)
    if parent is None:
        return {"traceparent": _restarted(identity)}
    state = _readable_state(states)
    return {"traceparent": parent} if state is None else {"traceparent": parent, "tracestate": state}


def _readable_parent(values: list[bytes]) -> str | None:
    if len(values) != 1 or not values[0].isascii():
        return None
    match = _TRACEPARENT.fullmatch(values[0].decode())
    if match is None:
        return None
    version, trace, parent, flags, more = match.groups()
    if version == _INVALID_VERSION or trace == _NO_TRACE or parent == _NO_PARENT:
        return None
    if version == "00":
        return None if more is not None else match.group()
    # A later version begins with the same four fields; it is passed on as version 00.
    return f"00-{trace}-{parent}-{int(flags, 16) & _SAMPLED:02x}"


def _readable_state(values: list[bytes]) -> str | None:
    # Several headers form one list, in their order.
    joined = b",".join(values)
    if not joined or len(joined) > MAX_STATE_CHARACTERS or not joined.isascii():
        return None
    text = joined.decode()
    return text if text.isprintable() else None


def _restarted(identity: UUID) -> str:
    digest = blake2b(b"traceparent" + identity.bytes, digest_size=24).hexdigest()
    return f"00-{digest[:32]}-{digest[32:]}-00"
