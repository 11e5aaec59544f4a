"""Remote control: the messages that are commands to this worker, and the available answers."""

from types import ModuleType
from typing import Any

import pytest
from celery.worker.control import Panel
from flower.inspector import Inspector
from hypothesis import given
from hypothesis import strategies as st

from sluice.worker import remote_control
from sluice.worker.remote_control import ANSWERS, SHOWN_SETTINGS, Command, Malformed, ReplyTo
from tests.mutants import mutated

ME, OTHER, EXCHANGE = "me@here", "other@here", "reply.celery.pidbox"
TICKET, KEY = "0b6e3f6e-37fb-4b80-8cbb-0d67b9b7b0a1", "9d3a2a3e-7a0e-3a34-b9a5-1e5f8a0a3ad1"
REPLY = {"reply_to": {"exchange": EXCHANGE, "routing_key": KEY}, "ticket": TICKET}
SENT: dict[str, Any] = {
    "method": "ping",
    "arguments": {},
    "destination": None,
    "pattern": None,
    "matcher": None,
}


def read(body: Any, module: Any = remote_control) -> Any:
    return module.read_command(body, hostname=ME, reply_exchange=EXCHANGE)


UNDERSTOOD: dict[str, tuple[dict[str, Any], Command | None]] = {
    "to all": (SENT, Command("ping", None)),
    "to all by an empty list": ({**SENT, "destination": []}, Command("ping", None)),
    "to me": ({**SENT, "destination": [OTHER, ME]}, Command("ping", None)),
    "to another": ({**SENT, "destination": [OTHER]}, None),
    "without arguments": ({**SENT, "arguments": None}, Command("ping", None)),
    "with a reply": ({**SENT, **REPLY}, Command("ping", ReplyTo(TICKET, KEY))),
    "unknown command": ({**SENT, "method": "explode"}, Command("explode", None)),
    "more fields": ({**SENT, "handlers": 5, "self": 1, "state": {}}, Command("ping", None)),
}
MALFORMED: dict[str, Any] = {
    "a list": [SENT],
    "a number": 5,
    "no method": {**SENT, "method": None},
    "unhashable method": {**SENT, "method": ["ping"]},
    "object as method": {**SENT, "method": {}},
    "arguments are a list": {**SENT, "arguments": ["x"]},
    "arguments are text": {**SENT, "arguments": "x"},
    "destination is text": {**SENT, "destination": f"x{ME}x"},
    "destination is an object": {**SENT, "destination": {ME: 1}},
    "destination is a number": {**SENT, "destination": 5},
    "destination of numbers": {**SENT, "destination": [ME, 5]},
    "regular expression": {**SENT, "pattern": "(a+)+$", "matcher": "pcre"},
    "pattern": {**SENT, "pattern": "*"},
    "matcher": {**SENT, "matcher": "glob"},
    "reply to a queue": {**SENT, **REPLY, "reply_to": {"exchange": "", "routing_key": "order.0"}},
    "reply to another exchange": {**SENT, **REPLY, "reply_to": {"exchange": "sluice", "routing_key": KEY}},
    "reply to another key": {**SENT, **REPLY, "reply_to": {"exchange": EXCHANGE, "routing_key": "order.0"}},
    "key with more": {**SENT, **REPLY, "reply_to": {"exchange": EXCHANGE, "routing_key": KEY + "\n"}},
    "reply to a list": {**SENT, **REPLY, "reply_to": [EXCHANGE, KEY]},
    "reply to text": {**SENT, **REPLY, "reply_to": KEY},
    "reply without a key": {**SENT, **REPLY, "reply_to": {"exchange": EXCHANGE}},
    "reply without a ticket": {**SENT, **REPLY, "ticket": None},
    "ticket without a reply": {**SENT, "ticket": TICKET},
    "ticket is a list": {**SENT, **REPLY, "ticket": [TICKET]},
    "long ticket": {**SENT, **REPLY, "ticket": "x" * 10_000},
}


@pytest.mark.parametrize("case", UNDERSTOOD)
def test_a_valid_message_is_read_as_a_command(case: str) -> None:
    body, command = UNDERSTOOD[case]
    assert read(body) == command


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_message_is_refused(case: str) -> None:
    with pytest.raises(Malformed):
        read(MALFORMED[case])


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([ME, KEY]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*SENT, *REPLY, "x"]), JSON) | JSON)
def test_any_message_is_a_command_or_malformed(changes: Any) -> None:
    body = {**SENT, **changes} if isinstance(changes, dict) else changes
    try:
        command = read(body)
    except Malformed:
        return
    if command is not None:
        assert isinstance(command.name, str)
        ANSWERS.get(command.name)
        assert command.reply_to is None or all(len(value) == 36 for value in command.reply_to)


def test_the_worker_answers_all_commands_of_flower_but_no_command_that_changes_a_worker() -> None:
    assert set(Inspector.inspect_methods) <= set(ANSWERS)
    changing = {name for name, info in Panel.meta.items() if info.type == "control"}
    # These two commands change nothing in a worker of Sluice.
    assert set(ANSWERS) & changing == {"enable_events", "heartbeat"}
    assert changing > {"shutdown", "revoke", "cancel_consumer", "pool_restart"}


def test_no_setting_with_an_address_or_a_secret_is_shown() -> None:
    for word in ("broker", "backend_url", "key", "pass", "secret", "token", "url", "options", "cert"):
        assert not [name for name in SHOWN_SETTINGS if word in name]


MUTANTS = {
    "any pattern": ('and body.get("pattern") is None', "", "pattern"),
    "any matcher": ('and body.get("matcher") is None', "", "matcher"),
    "any arguments": ('and isinstance(body.get("arguments"), dict | None)', "", "arguments are a list"),
    "any destination": (
        "and (destination is None or _is_list_of_strings(destination))",
        "",
        "destination is text",
    ),
    "any method": ("isinstance(name, str)\n        and body", "body", "unhashable method"),
    "any exchange": ('or reply_to.get("exchange") != reply_exchange', "", "reply to another exchange"),
    "any reply": ("not isinstance(reply_to, dict) or", "", "reply to text"),
    "any ticket": ("not _is_uuid(ticket) or", "", "ticket is a list"),
    "any key": ("or not _is_uuid(routing_key)", "", "reply to another key"),
    "prefix of a key": ("_UUID.fullmatch", "_UUID.match", "key with more"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_caught(mutant: str) -> None:
    old, new, case = MUTANTS[mutant]
    copy: ModuleType = mutated(remote_control, old, new)
    try:
        read(MALFORMED[case], copy)
    except copy.Malformed:
        pytest.fail("the mutant refuses the message, too")
    except Exception:
        return
