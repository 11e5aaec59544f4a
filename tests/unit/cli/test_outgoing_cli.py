"""`sluice outbox` and `sluice effects` without services: refused options, confirmations, tables."""

import getpass
import io
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import pytest
import typer
from typer.testing import CliRunner

from sluice.admin.decisions import OperationRefused, decide
from sluice.admin.documents import as_json
from sluice.admin.effects import CallChange, reasons_to_wait
from sluice.admin.outbox import event_document
from sluice.cli.confirmation import require_confirmation
from sluice.cli.effects import call_table, conflict_table, count_table, reason_table
from sluice.cli.effects_change import change_document, change_lines
from sluice.cli.main import app
from sluice.cli.outbox import refused_table, waiting_table
from sluice.cli.printing import field_lines, read_age, say_age
from sluice.cli.tables import Table, table_lines
from sluice.db.admin.call_admin import CallConflict, CallReason, ListedCall, WholeCall
from sluice.db.admin.outbox_admin import OutgoingEvent, QueueWaiting, RefusalReason, RefusedRecord

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ID = UUID(int=7)
URLS = {
    "SLUICE_DATABASE_URL": "postgresql+psycopg2://me:secret@127.0.0.1:1/none",
    "SLUICE_REDIS_URL": "redis://127.0.0.1:1/0",
    "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "SLUICE_HANDLERS": "examples.shop.handlers",
}
LISTED = ListedCall(3, "notify:o-1", "notify", "order", "o-1", "pending", 2, 1, "cut off", NOW, 7_300.0, 45.4)
WHOLE = WholeCall(*LISTED, ID, True, {"to": "ann"}, None, True, NOW, None, None, NOW, None)
EVENT = OutgoingEvent(
    "order.0",
    5,
    ID,
    "out",
    "o-1",
    "made",
    None,
    {"a": "1"},
    memoryview(b'{"n":1}'),
    NOW,
    "here",
    None,
    None,
    None,
)


def shown(*tables: Table) -> list[list[str]]:
    return [line.split() for table in tables for line in table_lines(table)]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5_400), ("3d", 259_200), ("0s", 0)]
)
def test_an_age_with_a_unit_is_read(text: str, seconds: float) -> None:
    assert read_age(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "-5m", "10 m", "10w", "1e3s", "१s"])
def test_an_invalid_age_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="90s or 2h"):
        read_age(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (7_199, "119m"), (172_800, "2d")]
)
def test_an_age_is_printed_with_a_unit(seconds: float, text: str) -> None:
    assert say_age(seconds) == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["outbox", "retry", "--reason", "r"], "pass QUEUE and ID of one record, or --all"),
        (["outbox", "retry", "order.0", "--reason", "r"], "of one record"),
        (["outbox", "retry", "order.0", "1", "--all", "--reason", "r"], "of one record"),
        (["outbox", "retry", "order.0", "1", "--topic", "t", "--reason", "r"], "of one record"),
        (["effects", "retry", "--all", "--reason", "r"], "--state failed or --state uncertain"),
        (["effects", "retry", "k", "--state", "failed", "--reason", "r"], "--state failed"),
        (["effects", "retry", "--reason", "r"], "pass KEYs or --all, not both"),
        (["effects", "reconcile", "--reason", "r"], "pass KEYs or --all, not both"),
        (["effects", "reconcile", "k", "--all", "--reason", "r"], "pass KEYs or --all, not both"),
        (
            ["effects", "settle", "k", "--as", "failed", "--response", "{}", "--reason", "r"],
            "--as succeeded",
        ),
        (["effects", "settle", "k", "--as", "succeeded", "--response", "{", "--reason", "r"], "is not JSON"),
    ],
)
def test_contradictory_options_are_refused_before_postgres_is_used(words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, words, env=URLS)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "choices", "others"),
    [
        (["settle", "k"], ("succeeded", "failed"), ("pending", "running", "uncertain")),
        (["settle", "k", "--as", "gone"], ("succeeded", "failed"), ("pending", "running", "uncertain")),
        (["retry", "--all", "--state", "gone"], ("failed", "uncertain"), ("pending", "running", "succeeded")),
    ],
)
def test_only_valid_states_are_offered(
    words: list[str], choices: Sequence[str], others: Sequence[str]
) -> None:
    result = CliRunner().invoke(app, ["effects", *words, "--reason", "r"], env=URLS | {"COLUMNS": "200"})
    assert result.exit_code == 2
    assert all(choice in result.stderr for choice in choices)
    assert not any(other in result.stderr for other in others)


CHANGING = [
    ["outbox", "retry", "--all"],
    ["outbox", "drop", "order.0", "1"],
    ["effects", "reconcile", "--all"],
    ["effects", "retry", "k"],
    ["effects", "settle", "k", "--as", "failed"],
    ["effects", "pause"],
    ["effects", "resume"],
]


@pytest.mark.parametrize("words", CHANGING, ids=" ".join)
def test_a_command_that_changes_state_requires_a_reason(words: list[str]) -> None:
    for given in ([], ["--reason", " "]):
        result = CliRunner().invoke(app, [*words, *given], env=URLS)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--reason" in result.stderr
    # With a reason, the only error left is that Postgres cannot be reached.
    result = CliRunner().invoke(app, [*words, "--reason", "r"], env=URLS)
    assert "SLUICE_DATABASE_URL" in result.stderr


def test_without_a_terminal_a_dangerous_command_requires_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(
        OperationRefused,
        match=r"It may be done twice\. Cannot ask for confirmation without a terminal; pass --yes",
    ):
        require_confirmation("It may be done twice.", yes=False)
    require_confirmation("It may be done twice.", yes=True)


@pytest.mark.parametrize("is_confirmed", [True, False])
def test_on_a_terminal_a_dangerous_command_asks_for_confirmation(
    monkeypatch: pytest.MonkeyPatch, is_confirmed: bool
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    asked: list[str] = []

    def confirm(question: str, *, err: bool) -> bool:
        assert err
        asked.append(question)
        return is_confirmed

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(typer, "confirm", confirm)
    if is_confirmed:
        require_confirmation("Sure?", yes=False)
    else:
        with pytest.raises(OperationRefused, match="nothing was changed"):
            require_confirmation("Sure?", yes=False)
    assert asked == ["Sure?"]


def test_the_actor_is_the_user_who_runs_the_command() -> None:
    actor, verb, reason = decide("effects retry", "because")
    assert actor.startswith(f"{getpass.getuser()}@")
    assert (verb, reason) == ("effects retry", "because")


def test_a_payload_is_shown_as_json_or_text_or_base64() -> None:
    document = json.loads(as_json(event_document(EVENT)))
    assert (document["payload"], document["event_id"], document["created_at"]) == (
        {"n": 1},
        str(ID),
        "2026-01-02T03:04:05Z",
    )
    for raw in (b"\xff\x00", b'"\xff"'):
        document = event_document(EVENT._replace(payload=memoryview(raw)))
        assert "payload" not in document
        assert set(document) > {"payload_base64"}
    assert event_document(EVENT._replace(payload=memoryview(b"\xff")))["payload_base64"] == "/w=="
    for raw in (b"", b"<a>", b"{", b"a\x1b"):
        assert event_document(EVENT._replace(payload=memoryview(raw)))["payload_text"] == raw.decode()
    lines = field_lines(event_document(EVENT))
    assert 'payload: {"n":1}' in lines
    assert not any(line.startswith("error") for line in lines)


def test_the_tables_of_the_outbox_show_waiting_and_refused_events() -> None:
    waiting = waiting_table([QueueWaiting("order.0", 3, 1, 125.0)])
    record = RefusedRecord("order.0", 5, "out", None, "too large", NOW, 7_300.0, 2)
    refused = refused_table([record, record._replace(error="[x]")], [RefusalReason(2, "out", "[x]")])
    assert shown(waiting, refused) == [
        ["queue", "waiting", "refused", "oldest"],
        ["order.0", "3", "1", "2m"],
        ["queue", "id", "topic", "key", "since", "behind", "error"],
        ["order.0", "5", "out", "-", "2h", "2", "too", "large"],
        ["order.0", "5", "out", "-", "2h", "2", "error", "1"],
    ]


def test_the_tables_of_calls_show_only_states_that_occur() -> None:
    counts = [("capture", "succeeded", 9), ("notify", "pending", 2), ("notify", "failed", 1)]
    failed = LISTED._replace(entity_key=None, error=None, state="failed")
    shared = LISTED._replace(error="[gone]", due_in_seconds=1)
    reasons = [CallReason(7, "notify", "pending", "notify:o-1", "[gone]")]
    tables = (count_table(counts), call_table([LISTED, failed, shared], reasons), reason_table(reasons))
    assert shown(*tables) == [
        ["effect", "pending", "succeeded", "failed"],
        ["capture", "0", "9", "0"],
        ["notify", "2", "0", "1"],
        ["key", "effect", "entity", "state", "attempt", "age", "due", "in", "error"],
        ["notify:o-1", "notify", "order/o-1", "pending", "2", "2h", "45s", "cut", "off"],
        ["notify:o-1", "notify", "order", "failed", "2", "2h", "-", "-"],
        ["notify:o-1", "notify", "order/o-1", "pending", "2", "2h", "1s", "error", "1"],
        ["calls", "effect", "state", "newest", "key", "error"],
        ["7", "notify", "pending", "notify:o-1", "1:", "[gone]"],
    ]
    conflict = CallConflict(1, "notify:o-1", ID, {"to": "bob"}, NOW, None, None)
    assert shown(conflict_table([conflict]))[1] == ["1", "notify:o-1", '{"to":"bob"}', "-", "-"]


def test_a_pending_call_is_shown_with_the_reasons_why_it_waits() -> None:
    before = [("notify:o-0", "running")]
    assert reasons_to_wait(WHOLE, before=before, paused="provider down", declared=False) == [
        "all calls are paused: provider down",
        "no module of SLUICE_HANDLERS declares effect notify",
        "notify:o-0 must end first: it is running",
        "it is due in 45 s: cut off",
    ]
    due = WHOLE._replace(due_in_seconds=-0.1)
    assert reasons_to_wait(due, before=[], paused=None, declared=True) == []
    done = WHOLE._replace(state="succeeded")
    assert reasons_to_wait(done, before=before, paused="x", declared=False) == []


def test_changes_of_calls_print_as_lines_or_as_json() -> None:
    changes = [CallChange("a", "failed", "pending", "it is due now"), CallChange("b", "running", None, "no")]
    assert change_lines(changes, dry_run=True) == [
        "a: failed → would become pending: it is due now",
        "b: running, not changed: no",
    ]
    assert json.loads(as_json(change_document(changes, dry_run=False))) == {
        "dry_run": False,
        "calls": [
            {"effect_key": "a", "before": "failed", "after": "pending", "said": "it is due now"},
            {"effect_key": "b", "before": "running", "after": None, "said": "no"},
        ],
    }
