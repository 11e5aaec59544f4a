"""Compares two generations row by row in one snapshot, and stores the report and its approval."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple

from sqlalchemy import Table
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import JSON, Float, Integer, Numeric

from sluice.db.connection import Session, Statement
from sluice.db.identifiers import qualified, quoted
from sluice.db.tables import VERSION, shape_of

ONE_SNAPSHOT = "ISOLATION LEVEL REPEATABLE READ"
# A chunk usually takes milliseconds. The limit is high, because a slow disk must not end the comparison.
PATIENCE = "SET LOCAL statement_timeout = '120s'"
CHUNK_KEYS = 20_000
SAMPLES = 20  # sample rows of each kind

KINDS = ("only_live", "only_new", "differing")


@dataclass
class Comparison:
    """The result so far.

    `rows`: the number of "same" rows, and the number of rows of each kind in KINDS. The sums are over all
    rows.
    """

    rows: Counter[str] = field(default_factory=Counter)
    differing: Counter[str] = field(default_factory=Counter)
    """Column → the number of rows that differ in this column."""
    sums: dict[str, tuple[Decimal, Decimal]] = field(default_factory=dict)
    """Numeric column → its sums in the live and in the new generation."""
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    @property
    def differences(self) -> int:
        """Returns the number of rows that differ."""
        return sum(self.rows[kind] for kind in KINDS)


@dataclass(frozen=True)
class _Side:
    """The statements of a comparison."""

    bound: Statement
    counts: Statement
    samples: Mapping[str, Statement]


class Comparer:
    """Compares two tables of a projection: `live` and `new`. Needs a transaction with ONE_SNAPSHOT."""

    def __init__(self, session: Session, projection: Table, live: str, new: str) -> None:
        self._session = session
        shape = shape_of(projection)
        self._columns = (*shape.row_columns, VERSION)
        self._numbers = [
            name for name in shape.row_columns if isinstance(shape.types[name], Integer | Numeric | Float)
        ]
        self._statements = _statements(projection, shape.key, self._columns, self._numbers, live, new)

    def run(self) -> Iterator[Comparison]:
        """Yields the comparison after each chunk. The last result is complete."""
        found = Comparison(sums=dict.fromkeys(self._numbers, (Decimal(0), Decimal(0))))
        after: str | None = None
        while True:
            ((upto,),) = self._session.run(self._statements.bound, after)
            if upto is None:
                yield found
                return
            self._add(found, after, upto)
            after = upto
            yield found

    def _add(self, found: Comparison, after: str | None, upto: str) -> None:
        (row,) = self._session.run(self._statements.counts, after, upto)
        counts = dict(zip((*KINDS, "same"), row[:4], strict=True))
        found.rows.update(counts)
        columns, sums = row[4 : 4 + len(self._columns)], row[4 + len(self._columns) :]
        found.differing.update(dict(zip(self._columns, columns, strict=True)))
        for name, live, new in zip(self._numbers, sums[::2], sums[1::2], strict=True):
            before = found.sums[name]
            found.sums[name] = (before[0] + Decimal(live), before[1] + Decimal(new))
        for kind in KINDS:
            left = SAMPLES - len(found.samples[kind])
            if counts[kind] and left > 0:
                rows = self._session.run(self._statements.samples[kind], after, upto, left)
                found.samples[kind] += [{"key": key, "live": live, "new": new} for key, live, new in rows]


def _statements(
    projection: Table, key: str, columns: Sequence[str], numbers: Sequence[str], live: str, new: str
) -> _Side:
    # Postgres cuts names at 63 bytes.
    name, key = blake2b(f"{live} {new}".encode(), digest_size=8).hexdigest(), str(quoted(key))
    pairs = {
        column: (_comparable(projection, "o", column), _comparable(projection, "n", column))
        for column in columns
    }
    differs = " OR ".join(f"{old} IS DISTINCT FROM {other}" for old, other in pairs.values())
    both = f"o.{key} IS NOT NULL AND n.{key} IS NOT NULL"
    where = {
        "only_live": f"n.{key} IS NULL",
        "only_new": f"o.{key} IS NULL",
        "differing": f"{both} AND ({differs})",
    }
    counted = [
        *(f"count(*) FILTER (WHERE {condition})" for condition in where.values()),
        f"count(*) FILTER (WHERE {both} AND NOT ({differs}))",
        *(f"count(*) FILTER (WHERE {both} AND {o} IS DISTINCT FROM {n})" for o, n in pairs.values()),
        *(f"coalesce(sum({side}.{quoted(column)}), 0)::numeric" for column in numbers for side in ("o", "n")),
    ]
    span = f"($1 IS NULL OR {key} > $1) AND {key} <= $2"
    joined = (
        f"(SELECT * FROM {qualified(live)} WHERE {span}) o"
        f" FULL JOIN (SELECT * FROM {qualified(new)} WHERE {span}) n ON o.{key} = n.{key}"
    )
    nearest = " UNION ".join(
        f"(SELECT {key} AS k FROM {qualified(table)} WHERE $1 IS NULL OR {key} > $1"
        f" ORDER BY {key} LIMIT {CHUNK_KEYS})"
        for table in (live, new)
    )
    shown = [
        f"CASE WHEN {side}.{key} IS NULL THEN NULL ELSE json_build_object({_pairs(side, columns)}) END"
        for side in ("o", "n")
    ]
    return _Side(
        Statement(
            f"bound_{name}",
            f"SELECT max(k) FROM (SELECT k FROM ({nearest}) u ORDER BY k LIMIT {CHUNK_KEYS}) b",
            ("text",),
        ),
        Statement(f"counts_{name}", f"SELECT {', '.join(counted)} FROM {joined}", ("text", "text")),
        {
            kind: Statement(
                f"{kind}_{name}",
                f"SELECT coalesce(o.{key}, n.{key}), {', '.join(shown)} FROM {joined}"
                f" WHERE {condition} ORDER BY 1 LIMIT $3",
                ("text", "text", "int"),
            )
            for kind, condition in where.items()
        },
    )


def _comparable(projection: Table, side: str, column: str) -> str:
    kind = projection.columns[column].type
    # The type json has no equality operator. Compared as text, equal values with different spellings would
    # differ.
    cast = "::jsonb" if isinstance(kind, JSON) and not isinstance(kind, JSONB) else ""
    return f"{side}.{quoted(column)}{cast}"


def _pairs(side: str, columns: Sequence[str]) -> str:
    return ", ".join(
        f"'{column.replace(chr(39), chr(39) * 2)}', {side}.{quoted(column)}" for column in columns
    )


class Report(NamedTuple):
    """One stored comparison of a generation with the live generation."""

    id: int
    projection: str
    generation: int
    against: int
    made_at: datetime
    differing: int
    report: dict[str, Any]
    approved_by: str | None
    approved_at: datetime | None


INSERT_REPORT = Statement(
    "insert_report",
    """
    INSERT INTO sluice.generation_reports (projection, generation, against, differing, report)
    VALUES ($1, $2, $3, $4, $5) RETURNING id
    """,
    ("text", "int", "int", "bigint", "jsonb"),
)


def insert_report(
    session: Session, projection: str, generation: int, against: int, differing: int, report: str
) -> int:
    """Stores a comparison (JSON text). Returns its id."""
    ((number,),) = session.run(INSERT_REPORT, projection, generation, against, differing, report)
    return int(number)


READ_NEWEST_REPORT = Statement(
    "read_newest_report",
    f"""
    SELECT {", ".join(Report._fields)} FROM sluice.generation_reports
    WHERE projection = $1 AND generation = $2 ORDER BY id DESC LIMIT 1
    """,
    ("text", "int"),
)


def read_newest_report(session: Session, projection: str, generation: int) -> Report | None:
    """Returns the newest report of a generation; None if the generation was never compared."""
    rows = session.run(READ_NEWEST_REPORT, projection, generation)
    return Report(*rows[0]) if rows else None


APPROVE_REPORT = Statement(
    "approve_report",
    """
    UPDATE sluice.generation_reports SET approved_by = $2, approved_at = now()
    WHERE id = $1 AND approved_at IS NULL
    """,
    ("bigint", "text"),
)


def approve_report(session: Session, report_id: int, actor: str) -> bool:
    """Approves the differences of a report. Returns True if its state changed. Idempotent."""
    return session.count(APPROVE_REPORT, report_id, actor) == 1
