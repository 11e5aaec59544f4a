"""Gets the tokens of OAUTHBEARER: from an endpoint, from a function of the user, or from AWS."""

import json
import os
import re
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple, TypeAlias
from urllib.error import URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from sluice.kafka_io.access_files import read_current
from sluice.runtime.kafka_access import KafkaAccess, KafkaSecurity, setting
from sluice.runtime.settings import SettingsError

ENDPOINT_TIMEOUT_SECONDS = 5.0
RENEW_AT = 0.8  # of a token's life, as librdkafka does
_MSK_HOST = re.compile(r"\.([a-z]{2}(?:-[a-z]+)+-\d)\.amazonaws\.com")


class Token(NamedTuple):
    """A token, and the Unix time at which it expires."""

    value: str
    expires_at: float


Tokens: TypeAlias = Callable[[], Token]


class TokenUnavailable(Exception):
    """Raised if no token was returned. The message names the setting and contains no secret."""


def is_by_token(access: KafkaAccess) -> bool:
    """Returns True if the clients log in with a token."""
    return access.security.kafka_sasl_mechanism in ("OAUTHBEARER", "AWS_MSK_IAM")


def build_tokens(access: KafkaAccess) -> Tokens:
    """Returns a function that returns a new token. Raises SettingsError if a package or module is missing."""
    chosen = access.security
    if chosen.kafka_sasl_mechanism == "AWS_MSK_IAM":
        return _sign_for_msk(find_region(access.bootstrap_servers, os.environ.get("AWS_REGION", "")))
    if chosen.kafka_token_provider:
        return _import_provider(chosen.kafka_token_provider)
    return lambda: fetch_token(read_current(access).security)


def find_region(bootstrap_servers: str, region: str) -> str:
    """Returns the AWS region in the brokers' names, else `region`. Raises SettingsError if there is none."""
    found = _MSK_HOST.search(bootstrap_servers)
    if found is None and not region:
        raise SettingsError(f"{setting('sasl_mechanism')}: AWS_MSK_IAM requires AWS_REGION")
    return region if found is None else found[1]


def fetch_token(chosen: KafkaSecurity) -> Token:
    """Requests a token with the client credentials (RFC 6749, 4.4). Raises TokenUnavailable."""
    url, secret = chosen.kafka_oauth_token_url, chosen.kafka_oauth_client_secret.get_secret_value()
    pair = f"{quote(chosen.kafka_oauth_client_id, safe='')}:{quote(secret, safe='')}"
    form = {"grant_type": "client_credentials"}
    if chosen.kafka_oauth_scope:
        form["scope"] = chosen.kafka_oauth_scope
    request = Request(
        url,
        urlencode(form).encode(),
        {"Authorization": f"Basic {b64encode(pair.encode()).decode()}", "Accept": "application/json"},
    )
    asked_at = time.time()
    try:
        with urlopen(request, timeout=ENDPOINT_TIMEOUT_SECONDS) as answer:
            read = json.load(answer)
        return Token(str(read["access_token"]), asked_at + float(read.get("expires_in", 300)))
    except URLError as error:
        raise TokenUnavailable(f"{setting('oauth_token_url')}: {url} returned no token: {error}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = type(error).__name__
        raise TokenUnavailable(f"{setting('oauth_token_url')}: {url} returned no token: {reason}") from None


class RenewedTokens:
    """Returns the same token until most of its life has passed. Thread-safe."""

    def __init__(self, tokens: Tokens, *, clock: Callable[[], float] = time.time) -> None:
        self._tokens = tokens
        self._clock = clock
        self._lock = threading.Lock()
        self._token: Token | None = None
        self._renew_at = 0.0

    def __call__(self) -> Token:
        """Returns the token. Raises TokenUnavailable if a new one is needed and cannot be had."""
        with self._lock:
            now = self._clock()
            if self._token is None or now >= self._renew_at:
                self._token = self._tokens()
                self._renew_at = now + RENEW_AT * (self._token.expires_at - now)
            return self._token


def _import_provider(provider: str) -> Tokens:
    module, _, name = provider.partition(":")
    try:
        function = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError(f"{setting('token_provider')}: {error}") from error

    def provide() -> Token:
        try:
            value, expires_at = function()
            return Token(str(value), float(expires_at))
        except Exception as error:
            # The text of the error is left out, because it may contain a secret.
            reason = type(error).__name__
            raise TokenUnavailable(
                f"{setting('token_provider')}: {provider} must return (token, Unix time of expiry),"
                f" but failed: {reason}"
            ) from None

    return provide


def _sign_for_msk(region: str) -> Tokens:
    try:
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider
    except ImportError as error:
        raise SettingsError(
            f"{setting('sasl_mechanism')}: AWS_MSK_IAM requires a package; install it with:"
            " pip install 'sluice-kafka[msk]'"
        ) from error

    def sign() -> Token:
        try:
            value, expires_at_ms = MSKAuthTokenProvider.generate_auth_token(region)
        except Exception as error:
            reason = type(error).__name__
            raise TokenUnavailable(f"{setting('sasl_mechanism')}: AWS returned no token: {reason}") from None
        return Token(value, expires_at_ms / 1_000)

    return sign
