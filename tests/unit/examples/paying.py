"""Fixtures that start the shop's payment provider as a process, and functions that send requests to it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from sluice.stack.patience import patient
from tests.harness.providers import PaymentProvider

AFTER_ALL_SECONDS = 30.0  # a delay that ends only when the provider is killed


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaymentProvider]:
    provider = PaymentProvider(tmp_path_factory.mktemp("provider"))
    provider.start()
    yield provider
    provider.end()


@pytest.fixture
def provider(shared: PaymentProvider) -> PaymentProvider:
    shared.set_faults()
    return shared


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[PaymentProvider]:
    provider = PaymentProvider(tmp_path)
    provider.start()
    yield provider
    provider.end()


def post(
    provider: PaymentProvider,
    key: str | None,
    reference: str,
    amount_cents: object = 500,
    *,
    seconds: float = 60,
) -> urllib3.BaseHTTPResponse:
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"reference": reference, "amount_cents": amount_cents}
    with urllib3.PoolManager(retries=False, timeout=seconds) as http:
        return http.request("POST", f"{provider.control_url}/captures", json=body, headers=headers)


def found(provider: PaymentProvider, **query: str) -> dict[str, Any]:
    with urllib3.PoolManager(retries=False, timeout=patient(10)) as http:
        answer: dict[str, Any] = http.request("GET", f"{provider.control_url}/captures", fields=query).json()
    return answer


def captured(provider: PaymentProvider, reference: str) -> int:
    """Returns the number of captures that the provider reports. Fails if the journal has another number."""
    reported = len(found(provider, reference=reference)["captures"])
    assert reported == sum(capture.reference == reference for capture in provider.captures())
    return reported


def code(response: urllib3.BaseHTTPResponse) -> str:
    return str(response.json()["error"]["code"])


def replayed(response: urllib3.BaseHTTPResponse) -> bool:
    return response.headers.get("Idempotent-Replayed") == "true"
