"""The lines of the provider's journal, and the bodies of its requests and answers."""

from datetime import datetime
from typing import Any, TypeAlias

import msgspec


class CaptureRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /captures`: capture this amount for the payment named by `reference`."""

    reference: str
    amount_cents: int


class Answer(msgspec.Struct, frozen=True):
    """The status and the JSON body of an answer."""

    status: int
    body: dict[str, Any]


class Capture(msgspec.Struct, frozen=True, tag="capture", tag_field="kind"):
    """The line of one capture. Each of these lines is one movement of money."""

    at: datetime
    capture_id: str
    key: str
    reference: str
    amount_cents: int


class Request(msgspec.Struct, frozen=True, tag="request", tag_field="kind"):
    """The line of a `POST /captures` and its answer. The status is None if the connection was closed.

    `stored` is the answer that was stored for the key; None if no answer was stored.
    """

    at: datetime
    key: str | None
    request: CaptureRequest | None
    status: int | None
    replayed: bool = False
    stored: Answer | None = None


class KeysForgotten(msgspec.Struct, frozen=True, tag="keys_forgotten", tag_field="kind"):
    """The line of a request to forget all keys of earlier lines."""

    at: datetime


Line: TypeAlias = Capture | Request | KeysForgotten
