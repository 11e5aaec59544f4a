"""Reads the options of SLUICE_DATABASE_URL as libpq takes them, and refuses those that cannot work. Pure."""

import re
from collections.abc import Mapping
from urllib.parse import unquote

from sqlalchemy.engine import URL

# Settings of this process in the query, which are removed before the connect.
OWN_PREFIX = "sluice_"

PRIMARY_ONLY = frozenset({"read-write", "primary"})
_REFUSED = {
    "application_name": "Sluice names its sessions itself",
    "client_encoding": "Sluice's sessions use UTF8",
    "replication": "Sluice's sessions run SQL",
    # psycopg2 would take these for arguments of its own.
    **dict.fromkeys(
        ("dsn", "connection_factory", "cursor_factory", "async", "async_"), "Postgres has no such option"
    ),
}
_WITH_PORT = re.compile(r"(\[[^\]]+\]|[^/:,]+):(\d+)")


class UrlRefused(ValueError):
    """Raised for options that cannot work. The message has the option, and never a password."""


def libpq_options(url: URL) -> dict[str, str]:
    """Returns the options of libpq for this URL. Raises UrlRefused.

    Several hosts are given as `?host=a:5432&host=b:5432`, `?host=a:5432,b:5432` or `?host=a,b&port=5432`.
    """
    options = {name: _value(name, given) for name, given in url.query.items() if not _is_own(name)}
    for name, reason in _REFUSED.items():
        if name in options:
            raise UrlRefused(f"remove {name}: {reason}")
    if options.setdefault("target_session_attrs", "read-write") not in PRIMARY_ONLY:
        raise UrlRefused(
            f"remove target_session_attrs={options['target_session_attrs']}: Sluice uses the primary"
        )
    # A server that refuses writes is no primary for Sluice.
    options["target_session_attrs"] = "read-write"
    parts = {name: str(part) for name, part in _parts(url).items()}
    _require_plain_host(parts.get("host", ""))
    for name in parts.keys() & options.keys():
        raise UrlRefused(f"{name} is given twice, in the query and before it; remove one")
    if "host" in options:
        options |= _split_ports(options)
    return options | parts


def without_own_options(url: URL) -> URL:
    """Returns the URL without Sluice's own options, for other programs."""
    return url.difference_update_query([name for name in url.query if _is_own(name)])


def _is_own(name: str) -> bool:
    return name.startswith(OWN_PREFIX)


def _parts(url: URL) -> Mapping[str, object]:
    parts: Mapping[str, object] = url.translate_connect_args(username="user", database="dbname")
    return parts


def _require_plain_host(host: str) -> None:
    """Raises UrlRefused for a host that `libpq` decodes in its URLs, and SQLAlchemy does not."""
    if host.upper().startswith("%2F"):
        raise UrlRefused(f"{host} is no host; write a Unix socket as ?host={unquote(host)}")
    if "]" in host:
        raise UrlRefused("several hosts are written ?host=[::1]:5432&host=[::2]:5432")


def _value(name: str, given: str | tuple[str, ...]) -> str:
    if isinstance(given, str):
        return given
    if name not in ("host", "hostaddr", "port"):
        raise UrlRefused(f"{name} is given twice in the query; remove one")
    return ",".join(given)


def _split_ports(options: Mapping[str, str]) -> dict[str, str]:
    """Returns hosts and ports apart, as libpq takes them. A host without a port has the default port."""
    hosts = options["host"].split(",")
    found = [_WITH_PORT.fullmatch(host) for host in hosts]
    if not any(found):
        return {"host": options["host"]}
    if "port" in options:
        raise UrlRefused("port is given twice, as an option and with a host; remove one")
    names = [one[1].strip("[]") if one else host for host, one in zip(hosts, found, strict=True)]
    return {"host": ",".join(names), "port": ",".join(one[2] if one else "5432" for one in found)}
