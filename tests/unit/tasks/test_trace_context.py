"""An emitted event continues the trace of its cause. An invalid trace context starts a new trace."""

from uuid import UUID

import pytest

from sluice.tasks.fold.trace_context import MAX_STATE_CHARACTERS, carried_trace

EVENT = UUID(int=7)
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"
RESTARTED = carried_trace([("traceparent", b"broken")], EVENT)["traceparent"]


def carried(*headers: tuple[str, str | bytes | None], identity: UUID = EVENT) -> dict[str, str]:
    written = [(name, value.encode() if isinstance(value, str) else value) for name, value in headers]
    return carried_trace(written, identity)


@pytest.mark.parametrize(
    ("parent", "sent"),
    [
        (GOOD, GOOD),
        (f"00-{TRACE}-{PARENT}-ff", f"00-{TRACE}-{PARENT}-ff"),
        # A later version is sent on as version 00, without flags and fields of the later version.
        (f"01-{TRACE}-{PARENT}-03-more", f"00-{TRACE}-{PARENT}-01"),
        (f"cc-{TRACE}-{PARENT}-02", f"00-{TRACE}-{PARENT}-00"),
        (f"ff-{TRACE}-{PARENT}-01", RESTARTED),
        (f"{GOOD}-more", RESTARTED),
        (f"01-{TRACE}-{PARENT}-01more", RESTARTED),
        (GOOD.upper(), RESTARTED),
        (f"00-{'0' * 32}-{PARENT}-01", RESTARTED),
        (f"00-{TRACE}-{'0' * 16}-01", RESTARTED),
        (f" {GOOD}", RESTARTED),
        (f"{GOOD}\n", RESTARTED),
        (f"{GOOD[:-1]}\0", RESTARTED),
        (GOOD[:-1], RESTARTED),
        ("", RESTARTED),
        (b"\xff" * 55, RESTARTED),
        ("x" * 100_000, RESTARTED),
        (None, None),
    ],
)
def test_a_valid_traceparent_is_continued_and_an_invalid_traceparent_starts_a_new_trace(
    parent: str | bytes | None, sent: str | None
) -> None:
    assert carried(("traceparent", parent)).get("traceparent") == sent
    kept = {} if sent in (None, RESTARTED) else {"tracestate": "a=1"}
    found = carried(("TraceParent", parent), ("TRACESTATE", "a=1"))
    assert found == ({} if sent is None else {"traceparent": sent, **kept}), (
        "the tracestate is kept only with its traceparent"
    )


@pytest.mark.parametrize(
    ("states", "sent"),
    [
        (["a=1"], "a=1"),
        (["a=1", "b=2"], "a=1,b=2"),
        (["x" * MAX_STATE_CHARACTERS], "x" * MAX_STATE_CHARACTERS),
        (["x" * MAX_STATE_CHARACTERS, "b=2"], None),
        (["x" * (MAX_STATE_CHARACTERS + 1)], None),
        (["a=\0"], None),
        (["a=é"], None),
        (["a=1\n"], None),
        ([""], None),
        ([], None),
    ],
)
def test_an_invalid_tracestate_is_dropped_and_the_traceparent_is_kept(
    states: list[str], sent: str | None
) -> None:
    found = carried(("traceparent", GOOD), *(("tracestate", state) for state in states))
    assert found == {"traceparent": GOOD, **({} if sent is None else {"tracestate": sent})}


def test_two_traceparents_restart_the_trace() -> None:
    assert carried(("traceparent", GOOD), ("traceparent", GOOD)) == {"traceparent": RESTARTED}


def test_an_event_without_a_traceparent_gets_no_trace() -> None:
    assert carried(("tracestate", "a=1"), ("other", "x")) == {}


def test_a_restarted_trace_is_valid_and_the_same_for_every_fold_of_the_event() -> None:
    assert carried(("traceparent", RESTARTED)) == {"traceparent": RESTARTED}
    assert carried(("traceparent", "other")) == {"traceparent": RESTARTED}
    assert carried(("traceparent", "broken"), identity=UUID(int=8)) != {"traceparent": RESTARTED}
