"""Timestamps of events: the short way for most of them accepts exactly what the pattern accepts."""

import re
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.tasks.events import envelope
from sluice.tasks.events.envelope import parse_time
from sluice.tasks.events.strict_json import DecodeError
from tests.mutants import mutated

TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9:]{8}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})")
TIMES = (
    "2026-01-31T10:00:00Z",
    "2026-01-31T10:00:00.123456Z",
    "2026-01-31T10:00:00.1Z",
    "2024-02-30T10:00:00.5Z",
    "2026-01-31T10:00:00+01:00",
)
CHANGES = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 1),
    st.sampled_from(["", *'0123:-.,TZtz+ e\\"\0\n\x7f\u0661']),
)


def by_pattern(text: str) -> datetime | None:
    """Returns the time of a text that the pattern accepts and that the calendar has."""
    if TIME.fullmatch(text) is None:
        return None
    try:
        return msgspec.convert(text, datetime).astimezone(UTC)
    except msgspec.ValidationError:
        return None


def parsed(text: str) -> datetime | None:
    try:
        return parse_time("time", text)
    except DecodeError:
        return None


@given(st.sampled_from(TIMES), st.lists(CHANGES, min_size=1, max_size=3))
def test_a_text_is_a_time_if_the_pattern_accepts_it(text: str, changes: list[tuple[float, int, str]]) -> None:
    for place, removed, added in changes:
        at = int(place * len(text))
        text = text[:at] + added + text[at + removed :]
    if len(text) <= len(TIMES[1]):  # longer texts may have more than six digits
        assert parsed(text) == by_pattern(text)


@pytest.mark.parametrize(
    "text", ["2026-01-31T10:00:0\\u0030Z", "2026-01-31T10:00:00\0Z", "2026-01-31T10:00Z"]
)
def test_other_forms_are_refused_with_the_form_that_is_expected(text: str) -> None:
    with pytest.raises(DecodeError, match="must be an RFC 3339 timestamp"):
        parse_time("time", text)


def test_a_mutant_without_a_check_accepts_other_forms() -> None:
    escaped = mutated(envelope, 'and "\\\\" not in text', "")
    assert escaped.parse_time("time", "2026-01-31T10:00:0\\u0030Z") is not None
    without_t = mutated(envelope, 'and text[10:11] == "T"', "")
    assert without_t.parse_time("time", "2026-01-31 10:00:00Z") is not None
