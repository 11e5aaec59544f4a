"""Tests how a page of outbox rows is sent, its hint, and the records that are made from the rows.

The hint of a queue is an id. All rows with this id or a lower id were sent.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.db.records import WaitingRow
from sluice.kafka_io.record_types import Delivery
from sluice.tasks.outbox.outbox_page import OutboxPage, sent_through
from sluice.tasks.outbox.outgoing_record import outgoing_record
from tests.unit.tasks.strategies import texts

Place = tuple[str, str]


def row(number: int, key: str | None = "k", topic: str = "t", **more: Any) -> WaitingRow:
    made = WaitingRow("q", number, str(UUID(int=number)), topic, key, "made", None, "{}", memoryview(b"{}"))
    return made._replace(**more)


@st.composite
def pages(draw: st.DrawFn) -> list[WaitingRow]:
    """Draws rows of one queue in id order, with few keys, so that several rows share a key."""
    numbers = sorted(draw(st.sets(st.integers(1, 60), max_size=25)))
    keys, topics = st.sampled_from((None, "a", "b", "c")), st.sampled_from(("t", "u"))
    return [row(number, draw(keys), draw(topics)) for number in numbers]


def handed_over(page: OutboxPage, data: st.DataObject) -> Iterator[tuple[WaitingRow, list[WaitingRow]]]:
    """Sends rows and settles them in any order. Yields each sent row with the rows that were in flight."""
    waiting, in_flight = list(page.heads), list[WaitingRow]()
    while waiting or in_flight:
        if waiting and (not in_flight or data.draw(st.booleans())):
            in_flight.append(waiting.pop(0))
            yield in_flight[-1], in_flight[:-1]
            continue
        settled = in_flight.pop(data.draw(st.integers(0, len(in_flight) - 1)))
        following = page.settle(settled, data.draw(st.sampled_from(Delivery)), "why")
        if following is not None:
            waiting.append(following)


def by_place(rows: Iterable[WaitingRow]) -> dict[Place, list[int]]:
    found: defaultdict[Place, list[int]] = defaultdict(list)
    for one in rows:
        if one.key is not None:
            found[one.topic, one.key].append(one.id)
    return found


@given(pages(), st.data())
def test_each_row_is_sent_at_most_once_and_one_row_per_key_is_in_flight(
    rows: list[WaitingRow], data: st.DataObject
) -> None:
    seen = set()
    for handed, beside in handed_over(OutboxPage(rows), data):
        assert handed.id not in seen
        seen.add(handed.id)
        if handed.key is not None:
            assert (handed.topic, handed.key) not in {(other.topic, other.key) for other in beside}


@given(pages(), st.data())
def test_a_prefix_of_the_rows_of_each_key_is_acknowledged_and_no_row_is_lost(
    rows: list[WaitingRow], data: st.DataObject
) -> None:
    page = OutboxPage(rows)
    handed = [one.id for one, _ in handed_over(page, data)]
    acknowledged = [one.id for one in page.acknowledged]
    refused = [one.id for one, _ in page.refused]
    assert set(acknowledged + refused) <= set(handed)
    assert len(set(acknowledged + refused)) == len(acknowledged + refused)
    assert set(page.away) == {r.topic for r in rows if r.id in set(handed) - set(acknowledged + refused)}
    of_page = by_place(rows)
    for place, sent in by_place(page.acknowledged).items():
        assert sent == of_page[place][: len(sent)]
    # A row that was not sent follows a row of its key that was not acknowledged.
    for one in rows:
        if one.id not in handed:
            assert one.key is not None
            before = of_page[one.topic, one.key]
            assert set(before[: before.index(one.id)]) - set(acknowledged)


@given(pages())
def test_every_row_is_sent_if_every_row_is_acknowledged(rows: list[WaitingRow]) -> None:
    page = OutboxPage(rows)
    waiting = list(page.heads)
    while waiting:
        following = page.settle(waiting.pop(), Delivery.ACKNOWLEDGED)
        if following is not None:
            waiting.append(following)
    assert sorted(page.acknowledged) == rows


def test_a_refused_row_that_is_acknowledged_alone_is_followed_by_the_next_row_of_its_key() -> None:
    first, second, other = row(1), row(2), row(3, "other")
    page = OutboxPage([first, second, other])
    assert page.heads == [first, other]
    assert page.settle(first, Delivery.REFUSED, "refused with its batch") is None
    assert page.settle(other, Delivery.REFUSED, "refused") is None
    assert page.take_refused() == [first, other]
    assert page.settle(first, Delivery.ACKNOWLEDGED) == second
    assert page.settle(other, Delivery.REFUSED, "itself") is None
    assert page.refused == [(other, "itself")]


@given(pages(), st.sets(st.integers(1, 60)), st.none() | st.integers(1, 80), st.integers(0, 60))
def test_the_hint_is_the_highest_id_below_all_remaining_rows(
    rows: list[WaitingRow], sent: set[int], lowest_hidden: int | None, before: int
) -> None:
    # A page begins after the hint. A refused row is also after the hint, but in no page.
    rows = [one for one in rows if one.id > before and one.id != lowest_hidden]
    if lowest_hidden is not None and lowest_hidden <= before:
        lowest_hidden = None
    ids = [one.id for one in rows]
    left = set(ids) - sent | ({lowest_hidden} - {None})
    # The page may be incomplete, so rows after its last id may exist.
    known = range(before, max(ids, default=before) + 1)
    highest = max(number for number in known if not any(one <= number for one in left if one is not None))
    assert sent_through(before, ids, [number for number in ids if number in sent], lowest_hidden) == highest


@pytest.mark.parametrize(
    ("before", "ids", "sent", "lowest_hidden", "hint"),
    [
        (4, [], [], None, 4),
        (4, [], [], 9, 4),
        (4, [5, 7], [5, 7], None, 7),
        (4, [5, 7], [7], None, 4),
        (4, [5, 7, 9], [5, 9], None, 6),
        (4, [5, 7], [5, 7], 6, 5),
        (4, [5, 7], [5, 7], 8, 7),
        # A page of two rows, from a queue with the ids 5 to 20.
        (4, [5, 7], [5, 7], 20, 7),
    ],
)
def test_the_hint_after_a_page_is_the_expected_id(
    before: int, ids: list[int], sent: list[int], lowest_hidden: int | None, hint: int
) -> None:
    assert sent_through(before, ids, sent, lowest_hidden) == hint


@pytest.mark.parametrize(
    ("sent", "headers"),
    [
        (
            row(1),
            {"ce_id": str(UUID(int=1)), "ce_type": "made", "ce_source": "here", "ce_subject": "k"},
        ),
        (
            row(1, None),
            {"ce_id": str(UUID(int=1)), "ce_type": "made", "ce_source": "here"},
        ),
        (
            row(1, "ü", version="7", headers='{"ce_time": "2026-01-01T00:00:00Z", "mine": "é"}'),
            {
                "ce_id": str(UUID(int=1)),
                "ce_type": "made",
                "ce_source": "here",
                "ce_subject": "ü",
                "ce_version": "7",
                "ce_time": "2026-01-01T00:00:00Z",
                "mine": "é",
            },
        ),
    ],
)
def test_a_row_becomes_a_cloud_event_in_binary_mode(sent: WaitingRow, headers: dict[str, str]) -> None:
    record = outgoing_record(sent, "here")
    assert record.headers == {"ce_specversion": "1.0", "content-type": "application/json"} | headers
    assert (record.topic, record.key, record.value) == ("t", sent.key, b"{}")


_names: Sequence[str] = (
    "ce_id",
    "ce_type",
    "ce_source",
    "ce_subject",
    "ce_version",
    "ce_specversion",
    "content-type",
    "ce_time",
    "traceparent",
    "mine",
)


@given(st.dictionaries(st.sampled_from(_names) | texts, texts), st.none() | st.text("ab"), st.booleans())
def test_a_user_header_never_replaces_an_attribute_and_other_headers_are_kept(
    headers: dict[str, str], key: str | None, with_version: bool
) -> None:
    made = row(1, key, headers=json.dumps(headers), version="3" if with_version else None)
    record = outgoing_record(made, "here")
    plain = outgoing_record(made._replace(headers="{}"), "here").headers
    found = record.headers
    assert {name: found.get(name) for name in _names[:7]} == {name: plain.get(name) for name in _names[:7]}
    assert {name: value for name, value in found.items() if name not in _names[:7]} == {
        name: value for name, value in headers.items() if name not in _names[:7]
    }
    assert outgoing_record(WaitingRow(*made), "here") == record
