"""Messages as stored in Redis. An unreadable message is dropped with a reason, without an exception."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.runtime import redis_item
from sluice.runtime.message_frame import HEAD_BYTES, MAX_MESSAGE_BYTES
from sluice.runtime.redis_item import CONTENT_TYPE, DropReason, Item, MessageTooLarge, read_item, write_item

FRAME = b"\xff" * HEAD_BYTES


def changed(**changes: Any) -> bytes:
    """Returns an item with changed values. None removes a value."""
    item = json.loads(write_item("sluice.relay", FRAME, version=2))
    for name, value in changes.items():
        item[name.replace("_", "-") if name != "body" else name] = value
    return json.dumps({name: value for name, value in item.items() if value is not None}).encode()


@given(st.text(max_size=20), st.binary(min_size=HEAD_BYTES, max_size=300), st.sampled_from([1, 2, 3, 4]))
def test_a_written_message_is_read_back(task: str, frame: bytes, version: int) -> None:
    read = read_item(write_item(task, frame, version=version))
    assert isinstance(read, Item)
    assert read.frame == frame


@pytest.mark.parametrize("version", [2, 3])
def test_an_item_begins_with_the_form_of_a_kombu_message(version: int) -> None:
    envelope, _, frame = write_item("sluice.relay", FRAME, version=version).partition(b"\n")
    item = json.loads(envelope)
    assert base64.b64decode(item["body"]) + frame == FRAME
    assert item["content-type"] == CONTENT_TYPE
    assert item["headers"]["task"] == "sluice.relay"
    assert item["properties"]["body_encoding"] == "base64"


@given(st.binary(max_size=200))
def test_random_bytes_are_dropped_without_an_exception(item: bytes) -> None:
    assert isinstance(read_item(item), DropReason)


@pytest.mark.parametrize(
    "item",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff\xfe",
        changed(body=None),
        changed(body=5),
        changed(body="not base64!"),
        changed(body=""),
        changed(body=base64.b64encode(b"short").decode()),
        changed(headers=None),
        changed(headers=[]),
        changed(headers={"task": "sluice.relay"}),
        changed(headers={"task": "sluice.relay", "id": 5}),
        changed(headers={"task": "sluice.relay", "id": "x" * 65}),
        changed(content_type="application/json"),
        write_item("sluice.relay", FRAME)[:-1],
        b"\n" + FRAME,
        b"{}\n" + FRAME,
        changed(content_type="application/x-python-serialize"),
    ],
)
def test_an_item_of_another_form_is_unreadable(item: bytes) -> None:
    assert read_item(item) is DropReason.UNREADABLE


def test_a_compressed_message_is_dropped() -> None:
    item = changed(headers={"task": "sluice.relay", "id": "x", "compression": "application/x-gzip"})
    assert read_item(item) is DropReason.COMPRESSED


def test_other_fields_of_the_envelope_are_ignored() -> None:
    headers = {"id": "x", "task": "other", "eta": "2030-01-01", "timelimit": [1, 1], "expires": 1}
    assert read_item(changed(headers=headers, properties={"reply_to": "q"})) == Item("x", FRAME)


def test_a_message_over_the_bound_is_dropped_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_item, "_DECODER", None)
    assert read_item(b" " * (MAX_MESSAGE_BYTES + 1)) is DropReason.TOO_LARGE


def test_no_message_over_the_bound_is_written() -> None:
    with pytest.raises(MessageTooLarge):
        write_item("sluice.apply", b"\0" * (MAX_MESSAGE_BYTES * 3 // 4), version=2)
    with pytest.raises(MessageTooLarge):
        write_item("sluice.apply", b"\0" * MAX_MESSAGE_BYTES)
