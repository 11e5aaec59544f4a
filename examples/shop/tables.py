"""The shop's tables. Amounts are integer cents."""

from sqlalchemy import BigInteger, CheckConstraint, Column, DateTime, Integer, MetaData, String

from sluice import entity_table, projection_table

metadata = MetaData()

transactions = entity_table(
    "transactions",
    metadata,
    Column("payment_id", String(64), primary_key=True),
    Column("account_id", String(64), nullable=False),
    Column(
        "amount_cents",
        BigInteger,
        CheckConstraint("amount_cents > 0", name="amount_positive"),
        nullable=False,
    ),
)

# The decision to capture a payment. The ledger of side effects has the result of the capture.
captures = entity_table(
    "captures",
    metadata,
    Column("payment_id", String(64), primary_key=True),
    Column(
        "amount_cents",
        BigInteger,
        CheckConstraint("amount_cents > 0", name="capture_positive"),
        nullable=False,
    ),
)

# A projection for accounting. Sluice computes it only from payments and can rebuild it after a correction.
billing_line_items = projection_table(
    "billing_line_items",
    metadata,
    Column("payment_id", String(64), primary_key=True),
    Column("account_id", String(64), nullable=False, index=True),
    Column("net_cents", BigInteger, nullable=False),
    Column("tax_cents", BigInteger, nullable=False),
    Column("gross_cents", BigInteger, nullable=False),
)

# The clock of the source decides which balance is newer: versions are timestamps.
account_balances = entity_table(
    "account_balances",
    metadata,
    Column("account_id", String(64), primary_key=True),
    Column("balance_cents", BigInteger, nullable=False),
    Column("as_of", DateTime(timezone=True), nullable=False),
    versions="timestamp",
)

stock = entity_table(
    "stock",
    metadata,
    Column("product_id", String(64), primary_key=True),
    Column("on_hand", Integer, nullable=False, default=0),
    counters=("on_hand",),
)

orders = entity_table(
    "orders",
    metadata,
    Column("order_id", String(64), primary_key=True),
    Column("customer_id", String(64), nullable=False),
    Column("total_cents", BigInteger, nullable=False),
    Column("status", String(16), nullable=False, default="PLACED"),
)

users = entity_table(
    "users",
    metadata,
    Column("user_id", String(64), primary_key=True),
    Column("email", String(255)),
    Column("name", String(255)),
    merged=True,
    deletable=True,
)
