"""Tests what is at fault for an error (for example the event). docs/faults.md has the same table."""

import re
from pathlib import Path

import psycopg2
import psycopg2.errorcodes
import pytest

from sluice.db.errors import (
    FAULT_OF_CLASS,
    FAULT_OF_CODE,
    POSTGRES_CLASSES,
    DeploymentBroken,
    Fault,
    RowsChanged,
    WriteSuppressed,
    allows_waiting_at_start,
    needs_new_connection,
    sqlstate,
    whose_fault,
)
from sluice.db.tables import TableRefused

PAGE = Path(__file__).parents[3] / "docs/faults.md"


class Answer(psycopg2.Error):
    """An error of the server with the given SQLSTATE."""

    def __init__(self, code: str) -> None:
        super().__init__(f"SQLSTATE {code}")
        self.code = code

    @property
    def pgcode(self) -> str:  # type: ignore[override]
        return self.code


EVENT, DEPLOYMENT, SURROUNDINGS = Fault.EVENT, Fault.DEPLOYMENT, Fault.SURROUNDINGS
RECONNECTING = {"0A000", "26000", "25006", "25P03", "25P04"}
KNOWN_CODES = sorted(
    code
    for name, code in vars(psycopg2.errorcodes).items()
    if name.isupper() and not name.startswith("CLASS_") and isinstance(code, str)
)


def expected(code: str) -> Fault:
    """Returns the fault by a rule that is independent of the table in the code."""
    if re.match(r"22|23|44|54|P0|38|39", code):
        return EVENT
    if re.match(r"08|28|40|53|57|58|25006|25P03|25P04|3D000|55P03|0A000|26000", code):
        return SURROUNDINGS
    return DEPLOYMENT


def test_every_code_of_psycopg2_has_the_expected_fault() -> None:
    assert len(KNOWN_CODES) > 250
    assert {code: whose_fault(Answer(code)) for code in KNOWN_CODES} == {c: expected(c) for c in KNOWN_CODES}
    assert {code[:2] for code in KNOWN_CODES} <= POSTGRES_CLASSES


@pytest.mark.parametrize("code", ["ZZ001", "99999", "A0000", "P1234", "SL001", "U0001"])
def test_a_code_of_a_class_that_postgres_does_not_define_is_a_fault_of_the_event(code: str) -> None:
    assert whose_fault(Answer(code)) is EVENT


@pytest.mark.parametrize("code", [*KNOWN_CODES, "99999"])
def test_a_code_that_makes_the_connection_doubtful_requires_a_new_connection(code: str) -> None:
    reconnects = code in RECONNECTING or code[:2] == "08" or code[:3] == "57P"
    assert needs_new_connection(Answer(code)) is reconnects
    assert sqlstate(Answer(code)) == code


@pytest.mark.parametrize(
    ("code", "waits"),
    [
        ("28P01", False),
        ("28000", False),
        ("3D000", False),
        ("42P01", False),
        ("57P03", True),
        ("08006", True),
    ],
)
def test_a_process_that_starts_waits_for_a_server_but_exits_after_a_wrong_login(
    code: str, waits: bool
) -> None:
    assert allows_waiting_at_start(Answer(code)) is waits


BY_TYPE: list[tuple[BaseException, Fault, bool]] = [
    (psycopg2.OperationalError("server closed the connection unexpectedly"), SURROUNDINGS, True),
    (psycopg2.InterfaceError("connection already closed"), SURROUNDINGS, True),
    (psycopg2.DatabaseError("error with status PGRES_TUPLES_OK"), SURROUNDINGS, True),
    (psycopg2.ProgrammingError("the connection cannot be re-entered"), DEPLOYMENT, True),
    (psycopg2.ProgrammingError("can't adapt type 'Decimal128'"), EVENT, False),
    (psycopg2.DataError("number out of range"), EVENT, False),
    (OverflowError("can't serialize ints >= 2**64 or < -(2**63)"), EVENT, False),
    (ValueError("A string literal cannot contain NUL (0x00) characters."), EVENT, False),
    (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), EVENT, False),
    (RowsChanged("orders: wrote 1 row instead of 2"), SURROUNDINGS, False),
    (WriteSuppressed("orders", 0, 1), EVENT, False),
    (ValueError("another"), DEPLOYMENT, False),
    (DeploymentBroken("a table is missing"), DEPLOYMENT, False),
    (TableRefused("no key"), DEPLOYMENT, False),
    (KeyError("a bug"), DEPLOYMENT, False),
]  # fmt: skip


@pytest.mark.parametrize(("error", "fault", "reconnects"), BY_TYPE, ids=lambda value: repr(value)[:40])
def test_the_fault_of_an_error_without_a_code_is_derived_from_its_type(
    error: BaseException, fault: Fault, reconnects: bool
) -> None:
    assert sqlstate(error) is None
    assert whose_fault(error) is fault
    assert needs_new_connection(error) is reconnects


def test_the_page_about_faults_lists_the_same_faults_as_the_code() -> None:
    rows = re.findall(r"^\| ([0-9A-Z]{2}|[0-9A-Z]{5}) \| (\w+) \|", PAGE.read_text(), re.MULTILINE)
    assert len({code for code, _ in rows}) == len(rows)
    assert {code: Fault(fault) for code, fault in rows} == FAULT_OF_CLASS | FAULT_OF_CODE
    assert "| any class that Postgres does not define | event |" in PAGE.read_text()
    assert "| any other code | deployment |" in PAGE.read_text()
