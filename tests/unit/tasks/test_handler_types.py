"""Mypy reports a handler with a wrong signature."""

import re
import subprocess
import sys
from pathlib import Path

# Mypy must report the lines that end with "# error", and no other lines.
HANDLERS = """
from collections.abc import Generator, Iterator

from examples.shop.handlers.payments import PaymentReceived
from examples.shop.tables import billing_line_items, orders, stock
from sluice import (
    Call, Effect, EffectCall, Emit, Event, Increment, Insert, JsonObject, ProjectionEffect, Read, Row,
    effect, handles, projects,
)


@handles("order.placed")
def writes(event: Event[JsonObject]) -> Iterator[Effect]:
    yield Insert(orders, event.key, {"status": "PLACED"})
    yield Emit("order-events", event.key, "order.created", {})
    yield Call("send_email")


@handles("stock.sold", "stock.returned")
def reads(event: Event[JsonObject]) -> Generator[Effect, Row | None, None]:
    row = yield Read(stock, event.key)
    if row is not None:
        yield Increment(stock, event.key, {"on_hand": -1})


@handles("order.placed")
def yields_one_kind(event: Event[PaymentReceived]) -> Iterator[Insert]:
    yield Insert(orders, event.key, {})


@handles("order.placed")  # error
def takes_two(event: Event[JsonObject], more: int) -> Iterator[Effect]:
    yield Call("send_email")


@handles("order.placed")  # error
def takes_something_else(event: int) -> Iterator[Effect]:
    yield Call("send_email")


@handles("order.placed")  # error
def returns_one_effect(event: Event[JsonObject]) -> Effect:
    return Call("send_email")


@handles("order.placed")  # error
def yields_texts(event: Event[JsonObject]) -> Iterator[str]:
    yield "send_email"


@handles(1)  # error
def handles_a_number(event: Event[JsonObject]) -> Iterator[Effect]:
    yield Call("send_email")


@projects("payment.received", into=billing_line_items, revision=3)
def projects_writes(event: Event[PaymentReceived]) -> Iterator[ProjectionEffect]:
    yield Insert(billing_line_items, event.key, {})


@projects("payment.received", into=billing_line_items, revision=3)
def projects_an_emit(event: Event[PaymentReceived]) -> Iterator[ProjectionEffect]:
    yield Emit("out", event.key, "t", {})  # error


@projects("payment.received", into=billing_line_items, revision=3)
def projects_a_call(event: Event[PaymentReceived]) -> Iterator[ProjectionEffect]:
    yield Call("send_email")  # error


@projects("payment.received", into=billing_line_items, revision=3)  # error
def projects_any_effect(event: Event[PaymentReceived]) -> Iterator[Effect]:
    yield Call("send_email")


@effect("send_email", on_unknown="ask")
def calls(call: EffectCall) -> JsonObject:
    return {"to": call.key}


@effect("send_email", on_unknown="ask")  # error
def calls_without_a_call() -> JsonObject:
    return {}


@effect("send_email", on_unknown="hope")  # error
def calls_and_hopes(call: EffectCall) -> JsonObject:
    return {}
"""


def test_mypy_reports_wrong_handlers_and_no_others(tmp_path: Path) -> None:
    module = tmp_path / "handlers.py"
    module.write_text(HANDLERS)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(module)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    reported = {int(line) for line in re.findall(r"handlers\.py:(\d+): error", done.stdout)}
    expected = {n for n, line in enumerate(HANDLERS.splitlines(), 1) if line.endswith("# error")}
    assert reported == expected, done.stdout
