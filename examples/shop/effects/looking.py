"""Asking a provider what really happened; the answer may be that it cannot be known yet."""

from collections.abc import Mapping
from typing import Any

import urllib3

from examples.shop.effects.addresses import read_address

TIMEOUT = urllib3.Timeout(connect=2, read=5)  # seconds; an operator or a task waits for the answer


class CannotKnow(Exception):
    """Whether the call happened cannot be said now: ask again later."""


def look_up(name: str, path: str, query: Mapping[str, str], found: str) -> dict[str, Any] | None:
    """The first of the list `found` in the answer of a GET; None: there is none and none is under way.

    `name` is the variable with the provider's address. Raises CannotKnow, AddressMissing, or what the HTTP
    client raises; reads only, so any number of times.
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
