"""SQL for another schema names no object of schema `sluice`, and changes nothing of the user."""

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sluice.db
from sluice.db.advisory_locks import LockPurpose, lock_name
from sluice.db.connection import Statement
from sluice.db.schema_text import in_schema

OTHER = "billing"
SCHEMAS = st.from_regex(r"[a-z_][a-z0-9_]{0,62}", fullmatch=True)
PURPOSES = st.sampled_from(LockPurpose)
CASES = {
    "a name": ("SELECT FROM sluice.queues, sluice.topics t", "SELECT FROM billing.queues, billing.topics t"),
    "a name in parentheses": ("(sluice.queues)", "(billing.queues)"),
    "a text with a name": ("nextval('sluice.outbox_ids')", "nextval('billing.outbox_ids')"),
    "the schema": ("DROP SCHEMA sluice CASCADE", "DROP SCHEMA billing CASCADE"),
    "a lock": ("hashtext('sluice relay')", "hashtext('billing relay')"),
    "the beginning of a lock": ("hashtext('sluice bridge ' || $1)", "hashtext('billing bridge ' || $1)"),
    "a body": ("AS $$ UPDATE sluice.queues $$", "AS $$ UPDATE billing.queues $$"),
    "after a comment": ("-- it's\nsluice.queues", "-- it's\nbilling.queues"),
}
UNCHANGED = [
    "SELECT 'see sluice.queues for more'",
    "SELECT 'it''s sluice.queues'",
    'SELECT "sluice.queues", "it\'s sluice." FROM x',
    "-- sluice.queues",
    "SELECT x.sluice.y, my_sluice.queues, $sluice.a",
    "starts_with(w.application_name, 'sluice')",
    "SELECT 'sluice relays'",
    "ALTER ROLE sluice",
]


@pytest.mark.parametrize("name", CASES)
def test_names_and_locks_are_translated(name: str) -> None:
    written, translated = CASES[name]
    assert in_schema(written, OTHER) == translated
    assert in_schema(written, "sluice") == written


@pytest.mark.parametrize("sql", UNCHANGED)
def test_other_texts_stay(sql: str) -> None:
    assert in_schema(sql, OTHER) == sql


def statements() -> Iterator[Statement]:
    """Yields every prepared statement."""
    for found in pkgutil.walk_packages(sluice.db.__path__, "sluice.db."):
        if ".migrations." not in found.name:
            for thing in vars(importlib.import_module(found.name)).values():
                if isinstance(thing, Statement):
                    yield thing


def test_no_statement_keeps_the_written_schema() -> None:
    without_comments = re.compile(r"--[^\n]*")
    for one in statements():
        translated = in_schema(without_comments.sub("", one.text), OTHER)
        rest = translated.replace("application_name, 'sluice'", "").replace("''), 'sluice'", "")
        assert "sluice" not in rest, one.name


def test_every_advisory_lock_has_a_purpose_or_belongs_to_a_users_table() -> None:
    """A lock whose number did not depend on the schema would exclude the other installation of a database."""
    of_tables = {"lock_absent", "lock_table_keys"}
    for one in statements():
        calls = len(re.findall(r"advisory_(?:xact_)?(?:un)?lock", one.text))
        if calls and one.name not in of_tables:
            named = [f"'{lock_name('sluice', purpose)}" for purpose in LockPurpose]
            assert sum(one.text.count(name) for name in named) == calls, one.name


@given(SCHEMAS, PURPOSES, SCHEMAS, PURPOSES, st.text(), st.text())
def test_locks_of_two_installations_or_purposes_have_different_texts(
    schema: str, purpose: LockPurpose, other: str, another: LockPurpose, ending: str, end: str
) -> None:
    if (schema, purpose) != (other, another):
        one, two = lock_name(schema, purpose), lock_name(other, another)
        assert one != two
        assert f"{one} {ending}" != f"{two} {end}"


def test_the_numbers_of_schema_sluice_are_those_of_the_versions_before() -> None:
    """A worker of the version before holds these numbers while the next version runs beside it."""
    by_name = {one.name: one.text for one in statements()}
    assert "hashtext('sluice relay'), hashtext(w.queue)" in by_name["lock_waiting"]
    assert by_name["lock_order"] == "SELECT pg_advisory_xact_lock(hashtext('sluice call'), hashtext($1))"
    assert by_name["lock_relay"] == "SELECT pg_advisory_xact_lock(hashtext('sluice relay'), hashtext($1))"
    assert by_name["join_workers"] == "SELECT pg_try_advisory_lock_shared(hashtext('sluice worker'), 0)"
    assert by_name["try_lease"] == "SELECT pg_try_advisory_lock(hashtextextended('sluice lease ' || $1, 0))"
    assert by_name["end_lease"] == "SELECT pg_advisory_unlock(hashtextextended('sluice lease ' || $1, 0))"
    assert by_name["try_lead"] == "SELECT pg_try_advisory_lock(hashtext('sluice beat'), 0)"
    assert by_name["try_instance"] == "SELECT pg_try_advisory_lock(hashtext('sluice bridge ' || $1), $2)"
    assert by_name["try_rebuild"] == "SELECT pg_try_advisory_lock(hashtext('sluice rebuild ' || $1), $2)"
    assert by_name["end_rebuild"] == "SELECT pg_advisory_unlock(hashtext('sluice rebuild ' || $1), $2)"
