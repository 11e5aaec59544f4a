"""The lines of the provider's journal, and the bodies of its requests and answers."""

from datetime import datetime
from typing import Any, TypeAlias

import msgspec


class CaptureRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /captures`: capture this amount for the payment named by `reference`."""

    reference: str
    amount_cents: int


class Answer(msgspec.Struct, frozen=True):
    """Status and JSON body of an answer."""

    status: int
    body: dict[str, Any]


class Capture(msgspec.Struct, frozen=True, tag="capture", tag_field="kind"):
    """A line for one capture: each line is one movement of money."""

    at: datetime
    capture_id: str
    key: str
    reference: str
    amount_cents: int


class Request(msgspec.Struct, frozen=True, tag="request", tag_field="kind"):
    """A line for a `POST /captures` and its answer. Status None: the connection was closed.

    `stored` is the answer of the key from now on; None if this request stored none.
    """

    at: datetime
    key: str | None
    request: CaptureRequest | None
    status: int | None
    replayed: bool = False
    stored: Answer | None = None


class KeysForgotten(msgspec.Struct, frozen=True, tag="keys_forgotten", tag_field="kind"):
    """A line after which all earlier keys are forgotten."""

    at: datetime


Line: TypeAlias = Capture | Request | KeysForgotten
