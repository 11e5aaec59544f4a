"""The parser of SLUICE_REDIS_URL, for redis-py and for kombu. Pure.

The forms of the URL:
- `redis://[user:password@]host[:port][/database]`, `rediss://…` with TLS
- `unix://[user:password@]/path[?db=number]`
- `sentinel://[user:password@]host[:port],host[:port]/name[/database]`, `sentinels://…` with TLS. User and
  password are those of the server, not of the Sentinels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn
from urllib.parse import parse_qsl, unquote, urlsplit

from sluice.runtime.secret_files import PASSWORD_FILE, SENTINEL_PASSWORD, SENTINEL_PASSWORD_FILE, URL_FILE

SERVER_PORT, SENTINEL_PORT = 6379, 26379
FORMS = "redis://, rediss://, unix://, sentinel:// or sentinels://"
TLS_SCHEMES, SENTINEL_SCHEMES = ("rediss", "sentinels"), ("sentinel", "sentinels")
_TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_TLS_OPTIONS = (*_TLS_FILES, "ssl_password", "ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL_OPTIONS = ("sentinel_username", SENTINEL_PASSWORD)
_FILES = (URL_FILE, PASSWORD_FILE, SENTINEL_PASSWORD_FILE)
_VERIFICATION = {"required": True, "CERT_REQUIRED": True, "none": False, "CERT_NONE": False}
_FLAGS = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis is, and how to log in."""

    servers: tuple[tuple[str, int], ...] = ()
    """Host and port: one server, or the Sentinels of `service`."""
    path: str = ""
    """The path of a unix socket."""
    service: str = ""
    """The name under which the Sentinels know the server."""
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    tls: Mapping[str, Any] | None = field(default=None, repr=False)
    """Options of redis-py for TLS; None without TLS. They always contain the verification."""
    reads_files: bool = False
    """True if the login at the server is in a file, which is read at each connect."""

    def __str__(self) -> str:
        """Returns the address without a password."""
        user = f" (user {self.username})" if self.username else ""
        if self.path:
            return f"{self.path}{user}"
        shown = ((f"[{host}]" if ":" in host else host, port) for host, port in self.servers)
        hosts = ",".join(f"{host}:{port}" for host, port in shown)
        service = f"/{self.service}" if self.service else ""
        return f"{hosts}{service}/{self.database}{user}"

    @property
    def files(self) -> list[str]:
        """The files that TLS needs."""
        return [self.tls[name] for name in _TLS_FILES if name in self.tls] if self.tls else []


def parse_redis_url(url: str) -> RedisAddress:
    """Returns the parts of the URL. Raises ValueError with a sentence that contains no password."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("redis", "rediss", "unix", *SENTINEL_SCHEMES):
        raise ValueError(f"it must begin with {FORMS}")
    # The list of Sentinels is not a host, so the parts are split as those of a general URL.
    parts = urlsplit(f"//{rest}")
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    with_tls, with_sentinel = scheme in TLS_SCHEMES, scheme in SENTINEL_SCHEMES
    options = _options(parts.query, scheme)
    if parts.fragment:
        _refuse_shape()
    login: dict[str, Any] = {
        "username": unquote(username),
        "password": unquote(password),
        # An empty login must not be sent.
        "reads_files": PASSWORD_FILE in options or (URL_FILE in options and bool(credentials)),
    }
    if scheme == "unix":
        if hosts or not parts.path.strip("/"):
            raise ValueError("a unix:// address is unix:///path/of/the/socket")
        return RedisAddress(path=unquote(parts.path), database=_number(options.get("db", "")), **login)
    path = parts.path.strip("/").split("/")
    service = unquote(path.pop(0)) if with_sentinel else ""
    if with_sentinel and not service:
        raise ValueError("a Sentinel address needs the name of the server: sentinel://host,host/name")
    if len(path) > 1:
        _refuse_shape()
    port = SENTINEL_PORT if with_sentinel else SERVER_PORT
    return RedisAddress(
        servers=tuple(_server(one, port) for one in (hosts.split(",") if with_sentinel else [hosts])),
        service=service,
        database=_number(path[0] if path else ""),
        sentinel_username=options.get("sentinel_username", ""),
        sentinel_password=options.get(SENTINEL_PASSWORD, ""),
        tls=MappingProxyType(_tls(options)) if with_tls else None,
        **login,
    )


def _options(query: str, scheme: str) -> dict[str, str]:
    known = [*_FILES]
    known += _TLS_OPTIONS if scheme in TLS_SCHEMES else ()
    known += _SENTINEL_OPTIONS if scheme in SENTINEL_SCHEMES else ()
    known += ("db",) if scheme == "unix" else ()
    options = dict(parse_qsl(query, keep_blank_values=True))
    for name in options:
        if name not in known:
            shown = [one for one in known if one not in _FILES]
            which = f"; {scheme}:// takes {', '.join(shown)}" if shown else f"; {scheme}:// takes none"
            hint = " (TLS needs rediss:// or sentinels://)" if name in _TLS_OPTIONS else ""
            # The name is shown only if it cannot be a part of a password.
            what = f"the option {name}" if name in (*_TLS_OPTIONS, *_SENTINEL_OPTIONS, "db") else "an option"
            raise ValueError(f"{what} is unknown{which}{hint}")
    return options


def _tls(options: Mapping[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {name: options[name] for name in (*_TLS_FILES, "ssl_password") if name in options}
    if ("ssl_certfile" in made) != ("ssl_keyfile" in made):
        raise ValueError("ssl_certfile and ssl_keyfile belong together; set both or none")
    verifies = _VERIFICATION.get(options.get("ssl_cert_reqs", "required"))
    checks = _FLAGS.get(options.get("ssl_check_hostname", "true"))
    if verifies is None:
        raise ValueError("ssl_cert_reqs must be required or none")
    if checks is None:
        raise ValueError("ssl_check_hostname must be true or false")
    made["ssl_cert_reqs"] = "required" if verifies else "none"
    made["ssl_check_hostname"] = verifies and checks
    return made


def _server(text: str, default_port: int) -> tuple[str, int]:
    host, port = text, ""
    if text.startswith("["):
        host, _, port = text[1:].partition("]")
        port = port.removeprefix(":")
    elif ":" in text:
        host, _, port = text.partition(":")
    if port and not (port.isascii() and port.isdecimal() and 0 < int(port) < 65_536):
        _refuse_shape()
    return unquote(host) or "localhost", int(port) if port else default_port


def _number(text: str) -> int:
    if text and not (text.isascii() and text.isdecimal()):
        _refuse_shape()
    return int(text or "0")


def _refuse_shape() -> NoReturn:
    raise ValueError(
        "it is not of the form redis://[user:password@]host:port/database; set a password with special"
        " characters as SLUICE_REDIS_PASSWORD"
    )
