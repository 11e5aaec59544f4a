"""The test helper that measures handovers of leases finds gaps and overlaps."""

from datetime import UTC, datetime

from tests.system.worker.handovers import Span, handovers, overlap_seconds, spans_of


def line(event: str, at: float, *queues: str) -> str:
    stamp = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
    names = ", ".join(f'"{queue}"' for queue in queues)
    return f'{{"event": "{event}", "queues": [{names}], "timestamp": "{stamp}"}}'


def test_a_span_begins_and_ends_with_log_lines_or_ends_with_its_worker() -> None:
    lines = [
        "worker: Warm shutdown",
        line("queue leases acquired", 10, "a", "b"),
        '{"event": "Canceling queue a", "timestamp": "x"}',
        line("queue leases released", 12, "a"),
        line("queue leases acquired", 15, "a"),
    ]
    assert sorted(spans_of(lines, "w", 20.0)) == [
        Span("a", "w", 10, 12),
        Span("a", "w", 15, 20),
        Span("b", "w", 10, 20),
    ]


def test_a_gap_is_a_handover_and_two_holders_at_once_are_an_overlap() -> None:
    spans = [Span("a", "w1", 0, 10), Span("a", "w2", 12, 20), Span("a", "w2", 21, 30), Span("b", "w1", 0, 9)]
    assert [handover.seconds for handover in handovers(spans)] == [2]
    assert overlap_seconds(spans) == 0
    assert overlap_seconds([*spans, Span("b", "w3", 6, 8)]) == 3
