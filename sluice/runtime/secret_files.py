"""Puts passwords into the URLs of the services, and reads secrets from files.

A URL names the files of its secrets in options, which the settings add. `current_url` reads the files, and is
called at each connect. So a process uses a new password without a restart. The files of Kafka's secrets have
settings of their own, and each new client reads them.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, unquote

from sluice.runtime.password_provider import PROVIDER_SETTING, ask_password

FILE_SUFFIX = "_FILE"
KAFKA_PREFIX = "SLUICE_KAFKA_"
DATABASE_URL, DATABASE_PASSWORD = "SLUICE_DATABASE_URL", "SLUICE_DATABASE_PASSWORD"
REDIS_URL, REDIS_PASSWORD = "SLUICE_REDIS_URL", "SLUICE_REDIS_PASSWORD"
REDIS_SENTINEL_PASSWORD = "SLUICE_REDIS_SENTINEL_PASSWORD"
URL_FILE, PASSWORD_FILE = "sluice_url_file", "sluice_password_file"
PASSWORD_PROVIDER = "sluice_password_provider"
SENTINEL_PASSWORD_FILE, SENTINEL_PASSWORD = "sluice_sentinel_password_file", "sentinel_password"


class SecretUnreadable(OSError):
    """Raised if the file of a secret cannot be read. The message has the name of the file."""


class SecretRefused(ValueError):
    """Raised if the setting of a secret cannot be used. The message has its name, and no secret."""


def merge_secrets(environ: Mapping[str, str], secrets: Iterable[str]) -> dict[str, str]:
    """Returns the environment with the secrets from their files, and with the passwords in the URLs.

    `secrets` are the names of the settings that may be in files. Raises SecretRefused.
    """
    made, files = dict(environ), {}
    for name in secrets:
        path = made.pop(name + FILE_SUFFIX, "")
        if not path:
            continue
        if made.get(name):
            raise SecretRefused(f"{name} and {name}{FILE_SUFFIX} are both set; set only one of them")
        try:
            made[name] = read_secret(path)
        except SecretUnreadable as error:
            raise SecretRefused(f"{name}{FILE_SUFFIX}: {error}") from None
        files[name] = path
        if name.startswith(KAFKA_PREFIX):
            made[name + FILE_SUFFIX] = path
    provider = made.get(PROVIDER_SETTING)
    if provider and made.get(DATABASE_PASSWORD):
        raise SecretRefused(f"{PROVIDER_SETTING} and {DATABASE_PASSWORD} are both set; set only one of them")
    if provider and made.get(DATABASE_URL):
        made[DATABASE_URL] = add_option(made[DATABASE_URL], PASSWORD_PROVIDER, provider)
    for url, password in ((DATABASE_URL, DATABASE_PASSWORD), (REDIS_URL, REDIS_PASSWORD)):
        if not made.get(url):
            continue
        if url in files:
            made[url] = add_option(made[url], URL_FILE, files[url])
        if password in files:
            made[url] = add_option(made[url], PASSWORD_FILE, files[password])
        elif made.get(password):
            made[url] = with_password(made[url], made[password])
    if made.get(REDIS_SENTINEL_PASSWORD) and not made.get(REDIS_URL, "").startswith("sentinel"):
        raise SecretRefused(f"{REDIS_SENTINEL_PASSWORD} is set, but {REDIS_URL} is no sentinel:// address")
    if REDIS_SENTINEL_PASSWORD in files:
        made[REDIS_URL] = add_option(made[REDIS_URL], SENTINEL_PASSWORD_FILE, files[REDIS_SENTINEL_PASSWORD])
    elif made.get(REDIS_SENTINEL_PASSWORD):
        made[REDIS_URL] = add_option(made[REDIS_URL], SENTINEL_PASSWORD, made[REDIS_SENTINEL_PASSWORD])
    return made


def read_secret(path: str) -> str:
    """Returns the content of a file, without line breaks at its end. Raises SecretUnreadable."""
    try:
        secret = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise SecretUnreadable(f"cannot read the file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SecretUnreadable(f"cannot read the file {path}: it is not UTF-8") from None
    if not secret:
        raise SecretUnreadable(f"cannot read the file {path}: it is empty")
    return secret


def with_password(url: str, password: str) -> str:
    """Returns the URL with this password in place of its own. The password may hold any character."""
    user = _split(url)[1].partition(":")[0]
    return _with_credentials(url, f"{user}:{quote(password, safe='')}")


def add_option(url: str, name: str, value: str) -> str:
    """Returns the URL with one more option in its query."""
    return f"{url}{'&' if '?' in url else '?'}{name}={quote(value, safe='')}"


def current_url(url: str) -> str:
    """Returns the URL with the secrets that its files contain now, and with the password of its provider.

    Raises SecretUnreadable, ProviderRefused and ProviderFailed.

    Of a URL in a file only user and password are used: another address needs a restart.
    """
    plain, _, query = url.partition("?")
    kept, files = [], {}
    for option in query.split("&") if query else []:
        name, _, value = option.partition("=")
        if name in (URL_FILE, PASSWORD_FILE, PASSWORD_PROVIDER, SENTINEL_PASSWORD_FILE):
            files[name] = unquote(value)
        else:
            kept.append(option)
    made = f"{plain}?{'&'.join(kept)}" if kept else plain
    if URL_FILE in files:
        made = _with_credentials(made, _split(read_secret(files[URL_FILE]))[1])
    if PASSWORD_FILE in files:
        made = with_password(made, read_secret(files[PASSWORD_FILE]))
    if PASSWORD_PROVIDER in files:
        made = with_password(made, ask_password(files[PASSWORD_PROVIDER]))
    if SENTINEL_PASSWORD_FILE in files:
        made = add_option(made, SENTINEL_PASSWORD, read_secret(files[SENTINEL_PASSWORD_FILE]))
    return made


def _split(url: str) -> tuple[str, str, str]:
    """Returns the URL up to `://`, `user:password`, and the rest behind the `@`."""
    scheme, _, rest = url.partition("://")
    ends = [at for at in map(rest.find, "/?#") if at >= 0]
    end = min(ends, default=len(rest))
    credentials, _, host = rest[:end].rpartition("@")
    return f"{scheme}://", credentials, host + rest[end:]


def _with_credentials(url: str, credentials: str) -> str:
    scheme, _, rest = _split(url)
    if not rest:
        return url  # it is no URL, and is refused as it is
    return f"{scheme}{credentials}@{rest}" if credentials else f"{scheme}{rest}"
