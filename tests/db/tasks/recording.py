"""A session that records its statements and explains their plans."""

from typing import Any

from sluice.db.connection import Session, Statement


class RecordingSession(Session):
    """Records every prepared statement that it runs, with its values."""

    ran: list[tuple[Statement, tuple[Any, ...]]]

    def run(self, statement: Statement, *values: Any) -> list[tuple[Any, ...]]:
        self.ran.append((statement, values))
        return super().run(statement, *values)

    def count(self, statement: Statement, *values: Any) -> int:
        self.ran.append((statement, values))
        return super().count(statement, *values)

    def defer_statement(self, statement: Statement, *values: Any) -> None:
        self.ran.append((statement, values))
        super().defer_statement(statement, *values)

    def explain(self, statement: Statement, values: tuple[Any, ...]) -> dict[str, Any]:
        """Executes a statement, rolls it back and returns its plan."""
        places = f"({', '.join(['%s'] * len(values))})" if values else ""
        self.command("BEGIN")
        with self.connection.cursor() as cursor:
            # The batch has already written these rows. A second execution changes nothing, but uses the same
            # plan.
            cursor.execute("SET CONSTRAINTS ALL DEFERRED")
            cursor.execute(
                f'EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE "{statement.name}" {places}', values or None
            )
            row = cursor.fetchone()
        self.command("ROLLBACK")
        assert row is not None
        plan: dict[str, Any] = row[0][0]["Plan"]
        return plan
