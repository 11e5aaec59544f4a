"""Flaws of records that do not fit into a message, and how a dead letter stores them."""

import msgspec

from sluice.kafka_io.record_types import Flaw
from sluice.runtime.terminal_text import counted
from sluice.tasks.events.strict_json import DecodeError


class RecordTooLarge(DecodeError):
    """The record is larger than SLUICE_MAX_RECORD_KIB. Only Kafka holds the whole record."""


class HeadersUnreadable(DecodeError):
    """Some header names are not UTF-8."""


class _Stored(msgspec.Struct, omit_defaults=True):
    unreadable_headers: int = 0
    size_bytes: int = 0
    sha256: str = ""


def flaw_error(flaw: Flaw) -> DecodeError:
    """Returns the reason why a record with this flaw is not an event."""
    if flaw.is_cut:
        return RecordTooLarge(
            f"the record has {flaw.size_bytes} bytes, over the limit of SLUICE_MAX_RECORD_KIB; the value is"
            f" not stored (SHA-256 {flaw.sha256.hex()}); a redrive reads the value from Kafka"
        )
    return HeadersUnreadable(
        f"{counted(flaw.unreadable_headers, 'header has a name that is', 'headers have names that are')}"
        " not UTF-8"
    )


def write_flaw(flaw: Flaw) -> str:
    """Returns the flaw as a JSON object."""
    stored = _Stored(flaw.unreadable_headers, flaw.size_bytes, flaw.sha256.hex())
    return msgspec.json.encode(stored).decode()


def read_flaw(text: str) -> Flaw:
    """Returns the flaw that `write_flaw` wrote."""
    stored = msgspec.json.decode(text, type=_Stored)
    return Flaw(stored.unreadable_headers, stored.size_bytes, bytes.fromhex(stored.sha256))
