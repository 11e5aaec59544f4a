"""Removes an erased entity's key from texts, and deletes its settled calls and event ids."""

import base64
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import msgspec

from sluice.admin.documents import as_json
from sluice.db.admin import erased_texts
from sluice.db.admin.erased_texts import Mention
from sluice.db.connection import Session
from sluice.tasks.apply.erasures import erased_effect_key

_BASE64 = "_base64"


def json_text(key: str) -> str:
    """Returns the key as it is written within a JSON document."""
    return msgspec.json.encode(key).decode()[1:-1]


def mention_pattern(key: str) -> str:
    """Returns a regular expression that matches the key as a whole word, for Python and Postgres. Pure."""
    return rf"(?<!\w){re.escape(key)}(?!\w)" if key else r"(?!)"


def without_key(value: Any, pattern: str, mark: str) -> Any:
    """Returns a JSON value with the mark in place of the key. If bytes contain the key, replaces
    all of these bytes. Pure.
    """
    if isinstance(value, str):
        return re.sub(pattern, lambda _: mark, value)
    if isinstance(value, list):
        return [without_key(one, pattern, mark) for one in value]
    if isinstance(value, Mapping):
        return {
            without_key(name, pattern, mark): mark
            if name.endswith(_BASE64) and _hides(one, pattern)
            else without_key(one, pattern, mark)
            for name, one in value.items()
        }
    return value


def _hides(encoded: Any, pattern: str) -> bool:
    if not isinstance(encoded, str):
        return False
    with suppress(ValueError):  # a field of this name in a user's data may hold any text
        return re.search(pattern, base64.b64decode(encoded).decode("utf-8", "replace")) is not None
    return False


def _names(row: Mention, entity: str, key: str) -> bool:
    """Returns True if the subject is the entity or a call, not the id of a letter. Pure."""
    return row.subject in (f"{entity}/{key}", f"{entity} {key}") or row.verb.startswith("effects ")


def replace_mentions(session: Session, entity: str, key: str, mark: str) -> dict[str, int]:
    """Replaces the key in `audit` and in texts of errors. Returns rows by table."""
    pattern = mention_pattern(key)
    rewritten = 0
    for row in erased_texts.read_audit_mentions(session, entity, key, json_text(key)):
        clean = row._replace(
            subject=without_key(row.subject, pattern, mark) if _names(row, entity, key) else row.subject,
            reason=without_key(row.reason, pattern, mark),
            details=without_key(row.details, pattern, mark),
        )
        if clean != row:
            details = None if clean.details is None else as_json(clean.details)
            erased_texts.rewrite_audit(session, clean, details)
            rewritten += 1
    conflicts = [
        row.id
        for row in erased_texts.read_conflict_mentions(session, key, json_text(key))
        if without_key([row.subject, row.details], pattern, mark) != [row.subject, row.details]
    ]
    return {
        "audit": rewritten,
        "call_conflicts": erased_texts.delete_conflicts(session, conflicts) if conflicts else 0,
        "texts of errors": erased_texts.replace_in_errors(session, pattern, mark),
    }


def erase_settled_calls(
    session: Session, erasure_key: bytes, entity: str, key: str, until: datetime, *, dry_run: bool
) -> int:
    """Deletes an entity's settled calls from before the erasure; returns how many. `dry_run` only counts.

    If a call with `once` was made, keeps a hash of its key, so that the call is not made again. Can be
    killed anywhere and repeated.
    """
    erased = 0
    for between in erased_texts.page_ranges(session, "executed_side_effects"):
        with session.transaction():
            calls = erased_texts.read_settled_calls(session, between, entity, key, until)
            gone = [effect_key for effect_key, stays in calls if not stays]
            stand_ins = [(one, erased_effect_key(erasure_key, one)) for one, stays in calls if stays]
            if calls and not dry_run:
                erased_texts.erase_calls(session, gone, stand_ins)
        erased += len(calls)
    return erased


def clear_event_ids(session: Session, entity: str, key: str, *, dry_run: bool) -> int:
    """Empties event ids that contain the key; returns how many. Can be killed anywhere and repeated.

    `dry_run` only counts them.
    """
    if not key:
        return 0
    treat = erased_texts.count_event_ids if dry_run else erased_texts.clear_event_ids
    ranges = erased_texts.page_ranges(session, "processed_events")
    return sum(treat(session, between, entity, key) for between in ranges)
