"""The lines of the provider's journal, and the bodies of its requests and answers."""

from datetime import datetime
from typing import Any, TypeAlias

import msgspec


class CaptureRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /captures`: take this amount for the payment that `reference` names."""

    reference: str
    amount_cents: int


class Answer(msgspec.Struct, frozen=True):
    """Status and JSON body of an answer."""

    status: int
    body: dict[str, Any]


class Capture(msgspec.Struct, frozen=True, tag="capture", tag_field="kind"):
    """Line: money really moved, once for each such line."""

    at: datetime
    capture_id: str
    key: str
    reference: str
    amount_cents: int


class Request(msgspec.Struct, frozen=True, tag="request", tag_field="kind"):
    """Line: a `POST /captures` and how it was answered; status None: the connection was dropped.

    `stored` is the answer that the key gives from now on, None if this request stored none.
    """

    at: datetime
    key: str | None
    request: CaptureRequest | None
    status: int | None
    replayed: bool = False
    stored: Answer | None = None


class KeysForgotten(msgspec.Struct, frozen=True, tag="keys_forgotten", tag_field="kind"):
    """Line: from here on no key of before is known."""

    at: datetime


Line: TypeAlias = Capture | Request | KeysForgotten
