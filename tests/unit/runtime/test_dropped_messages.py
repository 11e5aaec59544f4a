"""All dropped messages are counted. At most one line per reason and minute is logged."""

from collections import Counter

from structlog.testing import capture_logs

from sluice.runtime.dropped_messages import DroppedMessages


def test_all_dropped_messages_are_counted_and_one_line_per_reason_and_minute_is_logged() -> None:
    now = 0.0
    drops = DroppedMessages(clock=lambda: now)
    heard: Counter[str] = Counter()
    drops.listen(lambda reason: heard.update([reason]))
    with capture_logs() as lines:
        for second in range(121):
            now = float(second)
            drops.note("forged", queue="order.0")
        drops.note("unreadable")
    assert heard == {"forged": 121, "unreadable": 1}
    assert [(line["reason"], line["messages"]) for line in lines] == [
        ("forged", 1),
        ("forged", 60),
        ("forged", 60),
        ("unreadable", 1),
    ]
