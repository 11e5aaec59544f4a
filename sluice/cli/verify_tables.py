"""What `sluice verify` found, for people and as JSON. Pure."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from sluice.admin.documents import documents
from sluice.admin.verify.partition_verdict import PartitionVerdict, Verdict
from sluice.admin.verify.verified import Verified
from sluice.cli.ages import say_age
from sluice.cli.printing import table_of


def verified_document(found: Verified) -> dict[str, Any]:
    """For --json."""
    return {
        "ok": not found.mismatches(),
        "partitions": found.partitions,
        "dead_letters": documents(found.letters),
        "parked_entities": found.parked,
        "outbox": documents(found.outbox),
        "calls": [{"effect": effect, "state": state, "calls": calls} for effect, state, calls in found.calls],
    }


def partition_table(partitions: Sequence[PartitionVerdict]) -> Table:
    """Per partition: what the log holds, what was counted, and what that means."""
    return table_of(
        ("topic", "partition", "watermark", "records", "outcomes", "", "because"),
        (
            (
                one.topic,
                one.partition,
                one.watermark,
                one.records,
                one.counted,
                one.verdict.value,
                one.said or None,
            )
            for one in partitions
        ),
    )


def summary_lines(found: Verified) -> list[str]:
    """What is counted and not judged, one line a kind, and the verdict."""
    open_letters = [one for one in found.letters if one.state in ("dead", "waiting")]
    states: dict[str, int] = {}
    for one in open_letters:
        name = "conflict" if one.outcome == "conflict" else one.state
        states[name] = states.get(name, 0) + one.letters
    waiting = sum(one.waiting for one in found.outbox)
    oldest = max((one.oldest_seconds for one in found.outbox), default=0.0)
    unread = sum(one.verdict is Verdict.UNCOUNTABLE for one in found.partitions)
    wrong = len(found.mismatches())
    return [
        "dead letters: "
        + (", ".join(f"{number} {name}" for name, number in sorted(states.items())) or "none"),
        f"parked entities: {found.parked}",
        f"outgoing events: {waiting} wait"
        + (f", the oldest for {say_age(oldest)}" if waiting else "")
        + f", {sum(one.refused for one in found.outbox)} refused",
        "calls: "
        + (", ".join(f"{effect} {calls} {state}" for effect, state, calls in found.calls) or "none"),
        *([f"partitions that cannot be counted in full: {unread}"] if unread else []),
        f"partitions whose counters differ from the log: {wrong}" if wrong else "counters and log agree",
    ]
