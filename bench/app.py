"""The application of the bench: one row (or several), one identity and one outgoing event per event."""

from collections.abc import Iterator

import msgspec
from sqlalchemy import BigInteger, CheckConstraint, Column, MetaData, String, Text

from bench.peers.schema import EMITTED_TOPIC, EMITTED_TYPE, REJECTED_AMOUNT_CENTS
from sluice import Effect, Emit, Entity, Event, Rejected, Topic, Upsert, entity_table, handles

HANDLERS = "bench.app"
TOPIC = "bench-events"
EVENT_TYPE = "account.changed"
SHARDS = 4

account = Entity("account", shards=SHARDS)
topics = (Topic(TOPIC, entity=account),)
metadata = MetaData()

bench_accounts = entity_table(
    "bench_accounts",
    metadata,
    Column("key", String(64), primary_key=True),
    # Poison events violate this constraint.
    Column(
        "amount_cents",
        BigInteger,
        CheckConstraint("amount_cents >= 0", name="amount_not_negative"),
        nullable=False,
    ),
    Column("note", Text, nullable=False),
)

# The further rows of events with more than one write.
bench_lines = entity_table(
    "bench_lines",
    metadata,
    Column("key", String(80), primary_key=True),
    Column("amount_cents", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
)


class AccountChanged(msgspec.Struct, frozen=True):
    """Data of `account.changed`."""

    amount_cents: int
    note: str
    writes: int = 1
    """The number of rows that the event writes."""


@handles(EVENT_TYPE)
def change_account(event: Event[AccountChanged]) -> Iterator[Effect]:
    """Writes the newest state of the account, and one outgoing event."""
    amount, note = event.data.amount_cents, event.data.note
    if amount == REJECTED_AMOUNT_CENTS:
        raise Rejected("this amount is refused")
    yield Upsert(bench_accounts, event.key, {"amount_cents": amount, "note": note})
    for number in range(1, event.data.writes):
        yield Upsert(bench_lines, f"{event.key}/{number}", {"amount_cents": amount, "note": note})
    yield Emit(
        EMITTED_TOPIC, key=event.key, type=EMITTED_TYPE, data={"key": event.key, "amount_cents": amount}
    )
