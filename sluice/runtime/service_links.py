"""Recognises the environment variables that Kubernetes adds for a Service ("service links"). Pure.

Kubernetes adds them for each port of each Service in the namespace. For a Service whose name begins with
`sluice`, they look like settings.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address

_NAME = re.compile(
    r"SLUICE(?:_[A-Z0-9_]+?)??_"
    r"(?P<end>SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?P<part>PROTO|PORT|ADDR))?)?)"
)
_URL = re.compile(r"(?:tcp|udp|sctp)://(?P<host>.+):\d{1,5}")


def without_service_links(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment without the variables of service links."""
    return {name: value for name, value in environ.items() if not is_service_link(name, value)}


def is_service_link(name: str, value: str) -> bool:
    """Returns True if Kubernetes makes a variable of this name and value for a Service.

    Checks the value too: the Service `sluice-metrics` makes SLUICE_METRICS_PORT, which is also a setting, and
    a mistyped setting that ends in _PORT must still be refused.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return False
    end, part = found["end"], found["part"]
    if end == "SERVICE_HOST" or part == "ADDR":
        return _is_address(value)
    if end.startswith("SERVICE_PORT") or part == "PORT":
        return value.isdecimal()
    if part == "PROTO":
        return value in ("tcp", "udp", "sctp")
    url = _URL.fullmatch(value)
    return url is not None and _is_address(url["host"].strip("[]"))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
