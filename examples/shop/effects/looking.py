"""Queries a provider for the outcome of a call, which may still be unknown."""

from collections.abc import Mapping
from typing import Any

import urllib3

from examples.shop.effects.addresses import read_address

TIMEOUT = urllib3.Timeout(connect=2, read=5)  # seconds; an operator or a task waits for the answer


class CannotKnow(Exception):
    """Raised if the outcome of the call is unknown now; query it again later."""


def look_up(name: str, path: str, query: Mapping[str, str], found: str) -> dict[str, Any] | None:
    """Returns the first of the list `found` in the answer of a GET; None if none is there or in process.

    `name` is the variable with the provider's address. Raises CannotKnow, AddressMissing, or errors of the
    HTTP client. Idempotent, because it only reads.
    """
    host, port = read_address(name)
    with urllib3.HTTPConnectionPool(host, port, timeout=TIMEOUT, retries=False) as http:
        response = http.request("GET", path, fields=dict(query))
    if response.status != 200:
        raise CannotKnow(f"{name} answered {response.status} to {path}")
    answer = response.json()
    if answer[found]:
        first: dict[str, Any] = answer[found][0]
        return first
    if answer["in_process"]:
        raise CannotKnow(f"a request of this key is still in process at {name}")
    return None
