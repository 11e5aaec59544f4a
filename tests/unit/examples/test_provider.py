"""The payment provider's idempotency keys, as the IETF draft and Stripe define them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from examples.shop.outside.faults import Fault
from examples.shop.provider.book import CARD_LIMIT_CENTS
from tests.harness.providers import PaymentProvider
from tests.unit.examples import paying
from tests.unit.examples.paying import captured, code, found, post, replayed
from tests.waiting import wait_until

provider = paying.provider
shared = paying.shared


def test_a_repeat_gets_the_first_answer_and_captures_nothing(provider: PaymentProvider) -> None:
    first, second = (post(provider, "k-repeat", "repeat") for _ in range(2))
    assert (first.status, replayed(first)) == (201, False)
    assert (second.status, replayed(second)) == (201, True)
    assert first.json() == second.json()
    assert first.json()["amount_cents"] == 500
    assert captured(provider, "repeat") == 1


def test_a_quoted_key_is_the_same_key(provider: PaymentProvider) -> None:
    assert post(provider, '"k-quoted"', "quoted").status == 201
    assert replayed(post(provider, "k-quoted", "quoted"))


@pytest.mark.parametrize("key", [None, "", '""'])
def test_a_request_without_a_key_is_refused_and_captures_nothing(
    provider: PaymentProvider, key: str | None
) -> None:
    refused = post(provider, key, "keyless")
    assert (refused.status, code(refused)) == (400, "key_missing")
    assert captured(provider, "keyless") == 0


def test_a_key_that_was_used_for_another_request_is_refused(provider: PaymentProvider) -> None:
    assert post(provider, "k-other", "other", 500).status == 201
    refused = post(provider, "k-other", "other", 501)
    assert (refused.status, code(refused)) == (422, "key_reused")
    assert captured(provider, "other") == 1


@pytest.mark.parametrize("amount", [0, -1, 1.5, "500", None])
def test_an_invalid_request_does_not_use_its_key(provider: PaymentProvider, amount: object) -> None:
    refused = post(provider, f"k-invalid-{amount}", "invalid", amount)
    assert (refused.status, code(refused)) == (422, "invalid")
    assert not replayed(post(provider, f"k-invalid-{amount}", f"valid-{amount}"))


def test_a_repeat_for_a_declined_card_is_declined_again(provider: PaymentProvider) -> None:
    first, second = (post(provider, "k-dear", "dear", CARD_LIMIT_CENTS + 1) for _ in range(2))
    assert (first.status, code(first), replayed(first)) == (402, "card_declined", False)
    assert (second.status, replayed(second)) == (402, True)
    assert captured(provider, "dear") == 0
    assert post(provider, "k-limit", "limit", CARD_LIMIT_CENTS).status == 201


def test_two_simultaneous_requests_with_one_key_capture_once(provider: PaymentProvider) -> None:
    provider.set_faults(Fault("during", "delay", 1, matching="race", seconds=0.3))
    with ThreadPoolExecutor() as pool:
        first = pool.submit(post, provider, "k-race", "race")
        wait_until(
            lambda: not provider.faults_left(), timeout_seconds=5, what="the first request is in process"
        )
        second = post(provider, "k-race", "race")
        assert (second.status, code(second)) == (409, "in_process")
        assert found(provider, key="k-race") == {"captures": [], "in_process": True}
        assert first.result().status == 201
    assert found(provider, key="k-race")["in_process"] is False
    assert captured(provider, "race") == 1


def test_many_simultaneous_requests_with_one_key_capture_once(provider: PaymentProvider) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(provider, "k-many", "many"), range(24)))
    assert {answer.status for answer in answers} <= {201, 409}
    assert captured(provider, "many") == 1


def test_a_forgotten_key_captures_again_and_earlier_captures_are_kept(provider: PaymentProvider) -> None:
    assert post(provider, "k-forgotten", "forgotten").status == 201
    provider.forget_keys()
    assert not replayed(post(provider, "k-forgotten", "forgotten"))
    assert captured(provider, "forgotten") == 2
    assert len(found(provider, key="k-forgotten")["captures"]) == 2


def test_a_key_is_forgotten_after_its_lifetime(tmp_path: Path) -> None:
    provider = PaymentProvider(tmp_path, key_lifetime_seconds=0)
    provider.start()
    try:
        assert not any(replayed(post(provider, "k", "lifetime")) for _ in range(2))
        assert captured(provider, "lifetime") == 2
    finally:
        provider.end()
