"""Where the providers are: names in the environment, read when a call is made."""

import os
from typing import NamedTuple
from urllib.parse import urlsplit

PROVIDER_URL = "SHOP_PROVIDER_URL"
"""http://host:port of the payment provider."""

SMTP_URL = "SHOP_SMTP_URL"
"""smtp://host:port of the mail server."""

MAIL_LOG_URL = "SHOP_MAIL_LOG_URL"
"""http://host:port where the mail server tells what it accepted."""


class Address(NamedTuple):
    """Where to connect to."""

    host: str
    port: int


class AddressMissing(Exception):
    """No call can be made: the environment does not say where to. Set the name that the text says."""


def read_address(name: str) -> Address:
    """Host and port of the URL in the environment. Raises AddressMissing."""
    scheme, example = ("smtp", "smtp://127.0.0.1:25") if name == SMTP_URL else ("http", "http://127.0.0.1:80")
    url = os.environ.get(name, "")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise AddressMissing(f"{name}={url}: {error}; it looks like {example}") from error
    if parts.scheme != scheme or host is None or port is None:
        raise AddressMissing(f"{name} is {url or 'not set'}; it looks like {example}")
    return Address(host, port)
