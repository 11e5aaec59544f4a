"""The payment provider under faults and kills: its answers always agree with its journal."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import urllib3

from examples.shop.outside.faults import Fault
from examples.shop.provider.book import CARD_LIMIT_CENTS
from sluice.stack.patience import patient
from tests.harness.provider_process import NotListening
from tests.harness.providers import PaymentProvider
from tests.unit.examples import paying
from tests.unit.examples.paying import AFTER_ALL_SECONDS, captured, found, post, replayed
from tests.waiting import wait_until

mortal = paying.mortal
provider = paying.provider
shared = paying.shared


ERRORS = [
    # (moment of the error, the error is stored as the answer for the key, captures after two attempts)
    ("before", False, 1),
    ("during", True, 0),
    ("after", True, 1),
]


@pytest.mark.parametrize(("moment", "stored", "captures"), ERRORS, ids=[case[0] for case in ERRORS])
def test_an_error_is_stored_if_execution_had_begun(
    provider: PaymentProvider, moment: Any, stored: bool, captures: int
) -> None:
    reference = f"error-{moment}"
    provider.set_faults(Fault(moment, "error", 1))
    assert post(provider, reference, reference).status == 500
    again = post(provider, reference, reference)
    assert (again.status, replayed(again)) == ((500, True) if stored else (201, False))
    assert captured(provider, reference) == captures


@pytest.mark.parametrize(("moment", "before_the_repeat"), [("before", 0), ("during", 0), ("after", 1)])
def test_if_the_connection_drops_only_a_completed_capture_counts(
    provider: PaymentProvider, moment: Any, before_the_repeat: int
) -> None:
    reference = f"drop-{moment}"
    provider.set_faults(Fault(moment, "drop", 1))
    with pytest.raises(urllib3.exceptions.ProtocolError):
        post(provider, reference, reference)
    assert captured(provider, reference) == before_the_repeat
    assert [r.status for r in provider.requests() if r.key == reference] == [None]
    again = post(provider, reference, reference)
    assert (again.status, replayed(again)) == (201, before_the_repeat == 1)
    assert captured(provider, reference) == 1


@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_a_client_that_repeats_receives_the_late_answer(provider: PaymentProvider, moment: Any) -> None:
    reference = f"late-{moment}"
    provider.set_faults(Fault(moment, "delay", 1, seconds=patient(1.0)))
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        post(provider, reference, reference, seconds=patient(0.3))
    wait_until(
        lambda: replayed(post(provider, reference, reference)),
        timeout_seconds=5,
        what="the repeat is answered",
    )
    assert captured(provider, reference) == 1


def test_a_fault_applies_the_given_number_of_times_to_matching_requests(provider: PaymentProvider) -> None:
    provider.set_faults(Fault("before", "error", 2, matching="chosen", status=503))
    statuses = [
        post(provider, f"k-{n}", ref).status for n, ref in enumerate(["chosen", "not", "chosen", "chosen"])
    ]
    assert statuses == [503, 201, 503, 201]
    assert provider.faults_left() == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"faults": [{"moment": "before", "harm": "error", "times": 0}]},
        {"faults": [{"moment": "never", "harm": "error", "times": 1}]},
        {"faults": [{"moment": "before", "harm": "error", "times": 1, "tims": 2}]},
        {"faults": [{"moment": "before", "harm": "error", "times": 1, "status": 200}]},
    ],
)
def test_invalid_faults_are_refused(provider: PaymentProvider, body: object) -> None:
    with pytest.raises(ValueError, match="400"):
        provider.control("PUT", "/faults", body)


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
def test_an_unknown_path_is_answered_with_404(provider: PaymentProvider, method: str) -> None:
    with pytest.raises(ValueError, match="404"):
        provider.control(method, "/elsewhere", {})


def test_after_kill_9_the_provider_has_the_same_keys_and_captures(mortal: PaymentProvider) -> None:
    mortal.set_faults(Fault("after", "error", 1, matching="failed"))
    asked = [("k-1", "plain", 500), ("k-2", "failed", 500), ("k-3", "dear", CARD_LIMIT_CENTS + 1)]
    first = [post(mortal, *request) for request in asked]
    before = found(mortal)
    mortal.process.kill()
    mortal.start()
    assert found(mortal) == before
    again = [post(mortal, *request) for request in asked]
    assert [(a.status, a.json()) for a in again] == [(f.status, f.json()) for f in first]
    assert [f.status for f in first] == [201, 500, 402]
    assert all(replayed(answer) for answer in again)
    assert len(mortal.captures()) == 2
    mortal.forget_keys()
    mortal.process.kill()
    mortal.start()
    assert not replayed(post(mortal, *asked[0]))


def test_a_repeat_is_answered_after_the_provider_was_killed_before_its_answer(
    mortal: PaymentProvider,
) -> None:
    mortal.set_faults(Fault("after", "delay", 1, seconds=AFTER_ALL_SECONDS))
    with ThreadPoolExecutor() as pool:
        unanswered = pool.submit(post, mortal, "k", "owed")
        wait_until(mortal.captures, timeout_seconds=5, what="the payment is captured")
        mortal.process.kill()
        with pytest.raises(urllib3.exceptions.ProtocolError):
            unanswered.result()
    mortal.start()
    assert replayed(post(mortal, "k", "owed"))
    assert captured(mortal, "owed") == 1


def test_a_request_is_forgotten_if_the_provider_was_killed_before_the_capture(
    mortal: PaymentProvider,
) -> None:
    mortal.set_faults(Fault("during", "delay", 1, seconds=AFTER_ALL_SECONDS))
    with ThreadPoolExecutor() as pool:
        unanswered = pool.submit(post, mortal, "k", "lost")
        wait_until(lambda: not mortal.faults_left(), timeout_seconds=5, what="the request is in process")
        mortal.process.kill()
        with pytest.raises(urllib3.exceptions.ProtocolError):
            unanswered.result()
    mortal.start()
    assert found(mortal, key="k") == {"captures": [], "in_process": False}
    assert not replayed(post(mortal, "k", "lost"))


def test_an_incomplete_last_line_is_dropped_and_a_capture_without_its_request_counts(tmp_path: Path) -> None:
    provider = PaymentProvider(tmp_path)
    whole = {
        "kind": "capture",
        "at": "2026-01-01T00:00:00Z",
        "capture_id": "cap_1",
        "key": "k",
        "reference": "torn",
        "amount_cents": 500,
    }
    provider.journal.write_text(json.dumps(whole) + '\n{"kind": "capture", "at": "20')
    provider.start()
    try:
        provider.forget_keys()
        assert captured(provider, "torn") == 1
        assert post(provider, "k", "torn").status == 201
        assert captured(provider, "torn") == 2
    finally:
        provider.end()


def test_an_invalid_journal_is_refused_at_start(tmp_path: Path) -> None:
    provider = PaymentProvider(tmp_path)
    provider.journal.write_text('{"kind": "something"}\n')
    with pytest.raises(NotListening, match="something"):
        provider.start()
