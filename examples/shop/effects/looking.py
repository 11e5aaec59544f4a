"""Queries a provider for the outcome of a call."""

from collections.abc import Mapping
from typing import Any

import urllib3

from examples.shop.effects.addresses import read_address

TIMEOUT = urllib3.Timeout(connect=2, read=5)  # seconds; an operator or a task waits for the answer


class CannotKnow(Exception):
    """Raised if the provider cannot report the outcome of the call now; query again later."""


def look_up(name: str, path: str, query: Mapping[str, str], found: str) -> dict[str, Any] | None:
    """Sends a GET and returns the first item of the list `found` in the answer.

    Returns None if the list is empty and no request is in process. `name` is the variable with the provider's
    address. Raises CannotKnow, AddressMissing, or errors of the HTTP client. Only reads.
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
