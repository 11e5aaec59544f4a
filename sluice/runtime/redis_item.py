"""A Celery message of Sluice as it is stored on a list in Redis. Pure.

    kombu's envelope (JSON, without a body) · line feed · frame

The frame is raw, because base64 in JSON needs a third more room. Formats 1 and 2 have no line feed: the frame
is the envelope's body, as base64. Workers read only the signed frame and the id, and ignore all other fields
(`eta`, `expires`, time limits, callbacks, `reply_to`).
"""

import binascii
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec

from sluice.runtime.message_frame import HEAD_BYTES, MAX_MESSAGE_BYTES

CONTENT_TYPE = "application/x-sluice"
RAW_FORMAT = 3
"""The first format whose frame is behind the envelope."""
MAX_ID_CHARACTERS = 64


class DropReason(StrEnum):
    """The reason why a message is dropped without effect."""

    TOO_LARGE = "too large"
    UNREADABLE = "unreadable"  # the message is not JSON, or JSON of another shape
    COMPRESSED = "compressed"
    FORGED = "forged"  # the message was signed with no key of this installation
    UNKNOWN_TASK = "unknown task"


class Item(NamedTuple):
    """A message. The id is for logs and for Flower. The signature of the frame is not checked yet."""

    task_id: str
    frame: bytes


class MessageTooLarge(ValueError):
    """Raised for a message of more than MAX_MESSAGE_BYTES. Such a message is not published."""


class _Headers(msgspec.Struct):
    id: str
    task: str = ""
    compression: Any = None


class _Envelope(msgspec.Struct, rename="kebab"):
    # msgspec reads and writes bytes as base64.
    body: bytes
    headers: _Headers
    content_type: str
    content_encoding: str = "binary"
    properties: dict[str, Any] = {}


_DECODER = msgspec.json.Decoder(_Envelope)
_ENCODER = msgspec.json.Encoder()
_SEPARATOR = b"\n"  # the encoder writes none


def write_item(task: str, frame: bytes, task_id: str | None = None, *, version: int = RAW_FORMAT) -> bytes:
    """Returns the message to push, by default with a new id. Raises MessageTooLarge.

    `version` is the format of the frame.
    """
    task_id = task_id or str(uuid4())
    properties = {
        "body_encoding": "base64",
        "correlation_id": task_id,
        "delivery_info": {"exchange": "", "routing_key": ""},
        "delivery_mode": 2,
        "delivery_tag": task_id,
        "priority": 0,
    }
    is_raw = version >= RAW_FORMAT
    body = b"" if is_raw else frame
    item = _ENCODER.encode(_Envelope(body, _Headers(task_id, task), CONTENT_TYPE, properties=properties))
    if is_raw:
        item = b"".join((item, _SEPARATOR, frame))
    if len(item) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"a message of {len(item)} bytes is over the limit of {MAX_MESSAGE_BYTES} bytes for every message"
        )
    return item


def read_item(item: bytes) -> Item | DropReason:
    """Returns the message, or the reason to drop it. Never raises. Does not read the body."""
    if len(item) > MAX_MESSAGE_BYTES:
        return DropReason.TOO_LARGE
    head, separator, raw = item.partition(_SEPARATOR)
    try:
        envelope = _DECODER.decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, binascii.Error):
        return DropReason.UNREADABLE
    if envelope.headers.compression is not None:
        return DropReason.COMPRESSED
    if envelope.content_type != CONTENT_TYPE or len(envelope.headers.id) > MAX_ID_CHARACTERS:
        return DropReason.UNREADABLE
    frame = raw if separator else envelope.body
    if len(frame) < HEAD_BYTES:
        return DropReason.UNREADABLE
    return Item(envelope.headers.id, frame)
