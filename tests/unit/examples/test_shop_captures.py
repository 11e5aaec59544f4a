"""Captures at the payment provider: the meaning of each answer, and the results of reconciling."""

from typing import Any

import pytest
import urllib3

from examples.shop.effects import capture_payment, find_capture
from examples.shop.effects.addresses import PROVIDER_URL
from examples.shop.effects.captures import NOT_FINAL, NotAnswered
from examples.shop.effects.looking import CannotKnow
from examples.shop.outside.faults import Fault
from examples.shop.provider.book import CARD_LIMIT_CENTS
from sluice.tasks.api import NotSent, Refused
from tests.harness.providers import Providers
from tests.unit.examples import calling_outside
from tests.unit.examples.calling_outside import answering, capture_call, captures_of, listener

impatient = calling_outside.impatient
outside = calling_outside.outside
started = calling_outside.started


def test_a_capture_is_made_once_per_key(outside: Providers) -> None:
    call = capture_call("pay-once")
    assert find_capture(call) is None
    first = capture_payment(call)
    assert first["reference"] == "pay-once"
    assert first["amount_cents"] == 500
    assert capture_payment(call) == first == find_capture(call)
    assert captures_of(outside, "pay-once") == 1


def test_a_declined_card_and_an_amount_of_zero_are_refused(outside: Providers) -> None:
    with pytest.raises(Refused, match=r"402.*card_declined"):
        capture_payment(capture_call("pay-dear", CARD_LIMIT_CENTS + 1))
    with pytest.raises(Refused, match=r"422.*invalid"):
        capture_payment(capture_call("pay-nothing", 0))
    assert find_capture(capture_call("pay-dear", CARD_LIMIT_CENTS + 1)) is None


def test_a_key_that_was_used_with_another_amount_is_refused(outside: Providers) -> None:
    capture_payment(capture_call("pay-two", 1))
    with pytest.raises(Refused, match=r"422.*key_reused"):
        capture_payment(capture_call("pay-two", 2))


@pytest.mark.parametrize(("moment", "captures"), [("before", 0), ("during", 0), ("after", 1)])
def test_a_dropped_capture_is_unknown_and_reconciling_finds_its_result(
    outside: Providers, moment: Any, captures: int
) -> None:
    call = capture_call(f"pay-drop-{moment}")
    outside.payments.set_faults(Fault(moment, "drop", 1))
    with pytest.raises(urllib3.exceptions.ProtocolError):
        capture_payment(call)
    assert (find_capture(call) is not None) == (captures == 1)
    capture_payment(call)
    assert captures_of(outside, f"pay-drop-{moment}") == 1


def test_a_stored_failure_is_unknown_and_reconciling_finds_its_result(outside: Providers) -> None:
    outside.payments.set_faults(
        Fault("after", "error", 1, matching="pay-made"), Fault("during", "error", 1, matching="pay-not-made")
    )
    for payment in ("pay-made", "pay-not-made"):
        for _ in range(2):
            with pytest.raises(NotAnswered, match="500"):
                capture_payment(capture_call(payment))
    assert find_capture(capture_call("pay-made")) is not None
    assert find_capture(capture_call("pay-not-made")) is None


@pytest.mark.usefixtures("impatient")
def test_a_late_capture_is_unknown_and_reconciling_has_no_result_while_it_is_in_process(
    outside: Providers,
) -> None:
    call = capture_call("pay-late")
    outside.payments.set_faults(Fault("during", "delay", 1, seconds=1))
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        capture_payment(call)
    with pytest.raises(NotAnswered, match="409"):
        capture_payment(call)
    with pytest.raises(CannotKnow, match="in process"):
        find_capture(call)


@pytest.mark.parametrize("status", sorted({*NOT_FINAL, 500, 502, 503, 504}))
def test_an_answer_that_is_not_final_is_unknown(outside: Providers, status: int) -> None:
    call = capture_call(f"pay-{status}")
    outside.payments.set_faults(Fault("before", "error", 1, status=status))
    with pytest.raises(NotAnswered, match=str(status)):
        capture_payment(call)
    assert capture_payment(call) == find_capture(call)


@pytest.mark.parametrize(
    ("status", "retry_after", "seconds"),
    [
        (429, "30", 30),
        (503, "0", 0),
        (429, "", None),
        (429, "Wed, 21 Oct 2026 07:28:00 GMT", None),
        (503, "-1", None),
        (503, "1.5", None),
        (500, "30", None),
        (408, "30", None),
    ],
)
def test_a_call_that_the_provider_postpones_is_retried_after_the_requested_pause(
    monkeypatch: pytest.MonkeyPatch, status: int, retry_after: str, seconds: int | None
) -> None:
    head = f"HTTP/1.0 {status} Busy\r\nRetry-After: {retry_after}\r\nContent-Length: 0\r\n\r\n"
    with listener(answering(head.encode())) as port:
        monkeypatch.setenv(PROVIDER_URL, f"http://127.0.0.1:{port}")
        with pytest.raises(NotAnswered if seconds is None else NotSent, match=str(status)) as raised:
            capture_payment(capture_call("pay-x"))
    assert getattr(raised.value, "retry_after", None) == seconds


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_other_4xx_answers_are_final(outside: Providers, status: int) -> None:
    outside.payments.set_faults(Fault("before", "error", 1, status=status))
    with pytest.raises(Refused, match=str(status)):
        capture_payment(capture_call(f"pay-{status}"))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 307 Elsewhere\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 201 Created\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.0 201 Created\r\nContent-Length: 1\r\n\r\n{",
        b"garbage\r\n\r\n",
    ],
    ids=["moved", "truncated", "not JSON", "not HTTP"],
)
def test_an_invalid_answer_is_unknown(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    with listener(answering(answer)) as port:
        monkeypatch.setenv(PROVIDER_URL, f"http://127.0.0.1:{port}")
        with pytest.raises(Exception) as unknown:  # noqa: PT011 - any class except these two is unknown
            capture_payment(capture_call("pay-x"))
    assert not isinstance(unknown.value, NotSent | Refused)
