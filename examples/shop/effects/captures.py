"""Scenario 6: captures a payment at the provider, which detects a repeat by its idempotency key."""

from urllib.parse import quote

import msgspec
import urllib3

from examples.shop.effects.addresses import PROVIDER_URL, AddressMissing, read_address
from examples.shop.effects.looking import look_up
from sluice import EffectCall, JsonObject, NotSent, Refused, effect

CONNECT_SECONDS, READ_SECONDS = 2.0, 6.0  # their sum is below the effect's timeout

KEY_LIFETIME_SECONDS = 23 * 3600  # the provider keeps a key for 24 h; 1 h is a margin for clock errors

NOT_FINAL = frozenset((408, 409, 425, 429))
"""4xx answers after which the outcome is unknown. 409: another request with the key is in process, and may
capture. 429, like 503: the request was rejected, but no standard guarantees that it was not processed; a
proxy may have forwarded it. An unknown outcome does no harm here, because the key makes a retry safe."""

TURNED_AWAY = frozenset((429, 503))
"""If the answer has a Retry-After in seconds, this provider guarantees more than the standards: it
rejected the request before it read the key. So the request was not processed, and Sluice retries
the call at that time.
"""


class CaptureArgs(msgspec.Struct, frozen=True):
    """The args of a `capture_payment` call."""

    reference: str
    amount_cents: int


class NotAnswered(Exception):
    """Raised if the outcome of a capture is unknown. A retry with the same key is safe."""


def find_capture(call: EffectCall) -> JsonObject | None:
    """Returns the capture with this call's key; None if no such capture was made and none is in process.

    Raises an error if the provider cannot answer this now. Only reads. The provider also finds captures whose
    key it has forgotten.
    """
    return look_up(PROVIDER_URL, "/captures", {"key": provider_key(call.key)}, "captures")


@effect(
    "capture_payment",
    on_unknown="retry",
    timeout_seconds=10,
    attempts=8,
    key_lifetime=KEY_LIFETIME_SECONDS,
    reconcile=find_capture,
)
def capture_payment(call: EffectCall) -> JsonObject:
    """Captures a payment. Idempotent by the key. Returns the provider's capture.

    Raises NotSent if there was no connection or the provider rejected the request before it read the key.
    Raises Refused for a final refusal. Every other error means an unknown outcome: a lost connection, no
    answer in time, a 5xx answer (which the provider may have stored for the key), or an invalid answer.
    """
    try:
        args = msgspec.convert(call.args, CaptureArgs)
        host, port = read_address(PROVIDER_URL)
    except msgspec.ValidationError as error:
        raise Refused(f"args of capture_payment: {error}") from error
    except AddressMissing as error:
        raise NotSent(str(error)) from error
    timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
    with urllib3.HTTPConnectionPool(host, port, timeout=timeout, retries=False) as http:
        try:
            response = http.request(
                "POST",
                "/captures",
                json=msgspec.to_builtins(args),
                headers={"Idempotency-Key": provider_key(call.key)},
                redirect=False,
            )
        except urllib3.exceptions.ConnectTimeoutError as error:  # also connection refused, unknown host
            raise NotSent(f"no connection to {host}:{port}: {error}") from error
    retry_after = response.headers.get("Retry-After", "")
    if response.status in TURNED_AWAY and retry_after.isdecimal():
        raise NotSent(f"{response.status}: rejected, not processed", retry_after=int(retry_after))
    if 400 <= response.status < 500 and response.status not in NOT_FINAL:
        raise Refused(f"{response.status}: {response.data.decode(errors='replace')}")
    if response.status not in (200, 201):
        raise NotAnswered(f"{response.status}: {response.data.decode(errors='replace')}")
    captured: JsonObject = response.json()
    return captured


def provider_key(key: str) -> str:
    """Returns the key for a header, with all bytes except visible ASCII percent-encoded, reversibly."""
    return quote(key, safe=":/@!$&'()*+,;=?#[]|^`{}<>\\")
