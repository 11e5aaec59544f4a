"""The erased key is removed from the stored texts of commands and errors. Other keys stay."""

import base64
import json

import pytest

from sluice.admin.rebuild.report import compare
from sluice.db.admin.audit import Decision, insert_audits
from tests.db.admin import erasing
from tests.db.admin.erasing import KEY, erase_key, mentions, of, sent
from tests.db.tasks.projecting import Bench

bench = erasing.bench


def dropped(payload: str) -> str:
    return json.dumps({"key": "other", "payload_base64": base64.b64encode(payload.encode()).decode()})


@pytest.mark.parametrize(
    ("verb", "subject", "reason", "details", "subject_after"),
    [
        ("dlq redrive", f"thing/{KEY}", f"{KEY} asked", f'{{"note": "of {KEY}"}}', "thing/ERASED"),
        ("pause", f"thing {KEY}", "why", '{"paused": true}', "thing ERASED"),
        ("effects retry", f"notify:mail:{KEY}", "why", "{}", "notify:mail:ERASED"),
        ("outbox drop", "thing.0/7", "why", dropped(f'{{"id": "{KEY}"}}'), "thing.0/7"),
        ("outbox retry", "thing.0/7", "why", f'{{"key": "{KEY}"}}', "thing.0/7"),
    ],
)
def test_audit_rows_no_longer_contain_the_erased_key(
    bench: Bench, verb: str, subject: str, reason: str, details: str, subject_after: str
) -> None:
    bench.live(of(KEY, 0))
    sent(bench)
    with bench.looking.transaction():
        insert_audits(bench.looking, Decision("me", verb, reason), [(subject, details)])
    found = erase_key(bench)
    assert found.rows["audit"] == 1
    assert mentions(bench) == []
    [first, last] = bench.look("SELECT subject, verb FROM sluice.audit ORDER BY id")
    assert first == (subject_after.replace("ERASED", found.erased), verb)
    assert last == (f"thing/{found.erased}", "erase")
    [(payload,)] = bench.look(
        "SELECT coalesce(details ->> 'payload_base64', '') FROM sluice.audit ORDER BY id LIMIT 1"
    )
    assert payload in ("", found.erased)


def test_erasing_a_short_key_changes_no_text_of_other_entities(bench: Bench) -> None:
    bench.live(of("17", 0))
    sent(bench)
    rows = [("17", '{"record": ["things", 0, 17]}'), ("thing/170", '{"note": "x17"}')]
    with bench.looking.transaction():
        insert_audits(bench.looking, Decision("me", "dlq drop", "why"), rows)
    before = bench.look("SELECT subject, details FROM sluice.audit ORDER BY id")
    assert erase_key(bench, "17").rows["audit"] == 0
    assert bench.look("SELECT subject, details FROM sluice.audit ORDER BY id")[:2] == before


def test_only_call_conflicts_that_contain_the_erased_key_are_deleted(bench: Bench) -> None:
    bench.live(of(KEY, 0))
    sent(bench)
    bench.look(
        "INSERT INTO sluice.call_conflicts (effect_key, identity, args) VALUES"
        f" ('mail', gen_random_uuid(), '{{\"to\": \"{KEY}\"}}'),"
        f" ('mail:{KEY}', gen_random_uuid(), '[]'), ('mail', gen_random_uuid(), '[\"x{KEY}\"]')"
    )
    assert erase_key(bench).rows["call_conflicts"] == 2
    assert bench.look("SELECT args FROM sluice.call_conflicts") == [([f"x{KEY}"],)]


def test_errors_and_reports_no_longer_contain_the_erased_key(bench: Bench) -> None:
    bench.live(of(KEY, 0), of("bob", 1))
    number = bench.begin()
    bench.rebuild(number)
    bench.look(f"UPDATE public.totals_g{number} SET amount = 9")
    compare(bench.session, bench.registry, bench.generation(number))
    sent(bench)
    bench.look(
        f"UPDATE sluice.queues SET halted_reason = 'Key (id)=({KEY}) exists';"
        f"UPDATE sluice.generations SET failed_reason = 'CheckViolation: {KEY}';"
        f"INSERT INTO sluice.switches (name, actor, reason) VALUES ('effects', 'me', 'too many to {KEY}')"
    )
    assert erase_key(bench).rows["generation_reports"] == 1
    assert mentions(bench) == []
    [(reason,)] = bench.look("SELECT halted_reason FROM sluice.queues")
    assert reason.startswith("Key (id)=(erased:")
