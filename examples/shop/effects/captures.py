"""Scenario 6: a payment is captured at the provider, which recognises a repeat by its idempotency key."""

from urllib.parse import quote

import msgspec
import urllib3

from examples.shop.effects.addresses import PROVIDER_URL, AddressMissing, read_address
from examples.shop.effects.looking import look_up
from sluice import EffectCall, JsonObject, NotSent, Refused, effect

CONNECT_SECONDS, READ_SECONDS = 2.0, 6.0  # together within the effect's own timeout

KEY_LIFETIME_SECONDS = 23 * 3600  # the provider forgets a key after 24 h by its own clock: an hour less

NOT_FINAL = frozenset((408, 409, 425, 429))
"""Answers of the 4xx that do not settle the key. 409: a request of the key is in process, and may capture.
429, like 503: turned away, but no standard says that nothing was done, and what stands between may have
passed the request on. So they are unknown, which costs nothing: the key makes the next attempt harmless."""

TURNED_AWAY = frozenset((429, 503))
"""With a Retry-After in seconds the provider promises more than the standards: it turned the request away
before it looked at the key. So nothing was done, and the provider is asked again when it wants to be."""


class CaptureArgs(msgspec.Struct, frozen=True):
    """Args of a `capture_payment` call."""

    reference: str
    amount_cents: int


class NotAnswered(Exception):
    """The provider's answer does not say whether it captured; the same key may be tried again."""


def find_capture(call: EffectCall) -> JsonObject | None:
    """The capture made under this call's key; None: there is none, and none is in process.

    Raises if that cannot be known now. Changes nothing. The provider finds captures of keys that it has
    forgotten, too.
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
    """Captures once per key, however often it runs; returns the provider's capture.

    Raises NotSent if no connection came about or the provider turned the request away, Refused for a final
    no. Anything else is unknown: the connection ended, no answer in time, 5xx (also one that the provider
    stored and gives again for the key), an answer that is not understood.
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
        except urllib3.exceptions.ConnectTimeoutError as error:  # also refused, unreachable, or no such name
            raise NotSent(f"no connection to {host}:{port}: {error}") from error
    retry_after = response.headers.get("Retry-After", "")
    if response.status in TURNED_AWAY and retry_after.isdecimal():
        raise NotSent(f"{response.status}: turned away", retry_after=int(retry_after))
    if 400 <= response.status < 500 and response.status not in NOT_FINAL:
        raise Refused(f"{response.status}: {response.data.decode(errors='replace')}")
    if response.status not in (200, 201):
        raise NotAnswered(f"{response.status}: {response.data.decode(errors='replace')}")
    captured: JsonObject = response.json()
    return captured


def provider_key(key: str) -> str:
    """The key as a header can carry it: visible ASCII stays, all else is percent-encoded, one to one."""
    return quote(key, safe=":/@!$&'()*+,;=?#[]|^`{}<>\\")
