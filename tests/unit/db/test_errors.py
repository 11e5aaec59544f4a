"""Errors of the apply transaction: each is of one of three kinds, by its SQLSTATE or its type."""

import psycopg2
import pytest

from sluice.db.errors import DeploymentBroken, ErrorKind, classify, needs_new_connection, sqlstate
from sluice.db.tables import TableRefused


class Answer(psycopg2.Error):
    """What the server said, with a code of our choice."""

    def __init__(self, code: str) -> None:
        super().__init__(f"SQLSTATE {code}")
        self.code = code

    @property
    def pgcode(self) -> str:  # type: ignore[override]
        return self.code


TRANSIENT, REJECTED, BROKEN = ErrorKind.TRANSIENT, ErrorKind.REJECTED, ErrorKind.BROKEN
BY_CODE = [
    *((code, TRANSIENT, True) for code in ("08006", "57P01", "57P03", "25P03", "25006", "0A000", "26000")),
    *((code, TRANSIENT, False) for code in ("40001", "40P01", "53100", "53300", "55P03", "57014", "58030")),
    *((code, REJECTED, False) for code in ("22001", "22P05", "23502", "23514", "P0001", "54000")),
    *((code, BROKEN, False) for code in ("42P01", "42703", "42501", "42804", "25P02", "3D000", "XX000")),
]  # fmt: skip


@pytest.mark.parametrize(("code", "kind", "reconnects"), BY_CODE)
def test_a_code_has_a_kind(code: str, kind: ErrorKind, reconnects: bool) -> None:
    assert classify(Answer(code)) is kind
    assert needs_new_connection(Answer(code)) is reconnects
    assert sqlstate(Answer(code)) == code


BY_TYPE: list[tuple[BaseException, ErrorKind, bool]] = [
    (psycopg2.OperationalError("server closed the connection unexpectedly"), TRANSIENT, True),
    (psycopg2.InterfaceError("connection already closed"), TRANSIENT, True),
    (psycopg2.ProgrammingError("the connection cannot be re-entered"), BROKEN, True),
    (ValueError("A string literal cannot contain NUL (0x00) characters."), REJECTED, False),
    (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), REJECTED, False),
    (ValueError("another"), BROKEN, False),
    (DeploymentBroken("a table is missing"), BROKEN, False),
    (TableRefused("no key"), BROKEN, False),
    (KeyError("a bug"), BROKEN, False),
]


@pytest.mark.parametrize(("error", "kind", "reconnects"), BY_TYPE, ids=lambda value: repr(value)[:40])
def test_an_error_without_code_has_a_kind_by_its_type(
    error: BaseException, kind: ErrorKind, reconnects: bool
) -> None:
    assert sqlstate(error) is None
    assert classify(error) is kind
    assert needs_new_connection(error) is reconnects
