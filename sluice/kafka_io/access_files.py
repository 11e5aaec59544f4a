"""Reads and checks the files of certificates and secrets before a client uses them."""

import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from pydantic import SecretStr

from sluice.runtime.kafka_access import SECRETS, KafkaAccess, setting
from sluice.runtime.secret_files import SecretUnreadable, read_secret
from sluice.runtime.settings import SettingsError

_CERTIFICATES = ("kafka_ca_file", "kafka_certificate_file", "kafka_key_file")


def read_current(access: KafkaAccess) -> KafkaAccess:
    """Returns the access with the secrets that their files contain now.

    If a file cannot be read, its secret stays as it was: the file may be about to be replaced.
    """
    found: dict[str, SecretStr] = {}
    for name in SECRETS:
        if path := getattr(access.security, f"{name}_file"):
            with suppress(SecretUnreadable):
                found[name] = SecretStr(read_secret(path))
    return replace(access, security=access.security.model_copy(update=found)) if found else access


class AccessFiles:
    """Finds out if a file has changed since a client was made from it. A client reads its files only once."""

    def __init__(self, access: KafkaAccess) -> None:
        chosen = access.security
        names = (*_CERTIFICATES, *(f"{name}_file" for name in SECRETS))
        self._paths = [path for path in (getattr(chosen, name) for name in names) if path]
        self._noted: Mapping[str, bytes] = {}
        self.note()

    def note(self) -> None:
        """Notes the current content. Call it before a client reads the files."""
        self._noted = self._digests()

    def have_changed(self) -> bool:
        """Returns True if a file that can be read has another content than noted."""
        return any(self._noted.get(path) != digest for path, digest in self._digests().items())

    def _digests(self) -> dict[str, bytes]:
        found = {}
        for path in self._paths:
            with suppress(OSError):
                found[path] = sha256(Path(path).read_bytes()).digest()
        return found


def check_files(access: KafkaAccess) -> None:
    """Raises SettingsError if a client could not use a file of certificates or keys.

    The clients' own errors do not name the setting. kafka-python asks a terminal for a missing password.
    """
    chosen = access.security
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if chosen.kafka_ca_file:
        try:
            context.load_verify_locations(chosen.kafka_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise _refusal("ca_file", chosen.kafka_ca_file, error) from error
    if chosen.kafka_certificate_file:
        for name in ("certificate_file", "key_file"):
            path = getattr(chosen, f"kafka_{name}")
            try:
                with open(path, "rb"):
                    pass
            except OSError as error:
                raise _refusal(name, path, error) from error
        try:
            context.load_cert_chain(
                chosen.kafka_certificate_file,
                chosen.kafka_key_file,
                chosen.kafka_key_password.get_secret_value,
            )
        except (OSError, ssl.SSLError, ValueError) as error:
            hint = f", {setting('key_file')} or {setting('key_password')}"
            raise SettingsError(f"{setting('certificate_file')}{hint}: cannot be used: {error}") from error


def _refusal(name: str, path: str, error: OSError) -> SettingsError:
    return SettingsError(f"{setting(name)}: cannot read {path}: {error.strerror or error}")
