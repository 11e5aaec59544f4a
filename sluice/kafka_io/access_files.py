"""Checks the files of certificates before a client reads them."""

import ssl

from sluice.runtime.kafka_access import KafkaAccess, setting
from sluice.runtime.settings import SettingsError


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
