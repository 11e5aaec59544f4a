"""The bench's application with a projection of the accounts, for the measurement of rebuilds."""

from collections.abc import Iterator

from sqlalchemy import BigInteger, Column, MetaData, String, Text

from bench.app import EVENT_TYPE, AccountChanged, change_account, topics
from sluice import Event, ProjectionEffect, Upsert, projection_table, projects

__all__ = ["change_account", "project_account", "topics"]

HANDLERS = "bench.projected"

bench_balances = projection_table(
    "bench_balances",
    MetaData(),
    Column("key", String(64), primary_key=True),
    Column("amount_cents", BigInteger, nullable=False),
    Column("note", Text, nullable=False),
)


@projects(EVENT_TYPE, into=bench_balances, revision=1)
def project_account(event: Event[AccountChanged]) -> Iterator[ProjectionEffect]:
    """Writes the newest state of the account to the projection."""
    data = event.data
    yield Upsert(bench_balances, event.key, {"amount_cents": data.amount_cents, "note": data.note})
