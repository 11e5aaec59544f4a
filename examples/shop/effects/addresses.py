"""The providers' addresses. Each call reads its address from the environment."""

import os
from typing import NamedTuple
from urllib.parse import urlsplit

PROVIDER_URL = "SHOP_PROVIDER_URL"
"""http://host:port of the payment provider."""

SMTP_URL = "SHOP_SMTP_URL"
"""smtp://host:port of the mail server."""

MAIL_LOG_URL = "SHOP_MAIL_LOG_URL"
"""http://host:port of the mail server's log of accepted messages."""


class Address(NamedTuple):
    """The host and port of a server."""

    host: str
    port: int


class AddressMissing(Exception):
    """Raised if the environment has no valid address for a call. The text names the variable to set."""


def read_address(name: str) -> Address:
    """Returns host and port of the URL in the environment. Raises AddressMissing."""
    scheme, example = ("smtp", "smtp://127.0.0.1:25") if name == SMTP_URL else ("http", "http://127.0.0.1:80")
    url = os.environ.get(name, "")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise AddressMissing(f"{name}={url}: {error}; set a URL such as {example}") from error
    if parts.scheme != scheme or host is None or port is None:
        raise AddressMissing(f"{name} is {url or 'not set'}; set a URL such as {example}")
    return Address(host, port)
