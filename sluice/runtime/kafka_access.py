"""How clients reach the brokers: the settings SLUICE_KAFKA_…, without a client library. Pure."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from sluice.runtime.kafka_properties import find_flaw

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"]

PROVIDER_PATTERN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\]):")
_TLS_ONLY = ("ca_file", "certificate_file", "key_file", "key_password")
_BY_PASSWORD = ("username", "password")
_OF_ENDPOINT = ("oauth_token_url", "oauth_client_id", "oauth_client_secret")
_OF_TOKEN = (*_OF_ENDPOINT, "oauth_scope", "token_provider")


def setting(name: str) -> str:
    """Returns the environment variable of a Kafka setting."""
    return f"SLUICE_KAFKA_{name.upper()}"


class KafkaSecurity(BaseModel):
    """The security of the connections to Kafka, and the tuning of librdkafka. Secrets are never printed."""

    model_config = ConfigDict(frozen=True)

    kafka_security_protocol: Protocol = "PLAINTEXT"
    kafka_sasl_mechanism: Mechanism | None = None
    kafka_username: str = Field("", description="user of PLAIN and SCRAM")
    kafka_password: SecretStr = Field(SecretStr(""), description="password of PLAIN and SCRAM")
    kafka_ca_file: str = Field("", description="PEM file of the authorities that sign the brokers")
    kafka_certificate_file: str = Field("", description="PEM file of the client's certificate")
    kafka_key_file: str = Field("", description="PEM file of the key of the client's certificate")
    kafka_key_password: SecretStr = Field(SecretStr(""), description="password of the key file")
    kafka_oauth_token_url: str = Field("", description="endpoint of OAUTHBEARER's tokens")
    kafka_oauth_client_id: str = ""
    kafka_oauth_client_secret: SecretStr = SecretStr("")
    kafka_oauth_scope: str = ""
    kafka_token_provider: str = Field("", description="module:function that returns a token")
    kafka_properties: str = Field("", description="JSON object of librdkafka's properties, for tuning")
    kafka_password_file: str = Field("", description="file of the password")
    kafka_key_password_file: str = Field("", description="file of the key's password")
    kafka_oauth_client_secret_file: str = Field("", description="file of the client's secret")

    @field_validator("kafka_sasl_mechanism", mode="before")
    @classmethod
    def _empty_is_not_set(cls, mechanism: object) -> object:
        return mechanism or None

    @field_validator("kafka_token_provider")
    @classmethod
    def _provider_is_named(cls, provider: str) -> str:
        if provider and PROVIDER_PATTERN.fullmatch(provider) is None:
            raise ValueError(f"{provider!r} is not module:function")
        return provider

    @field_validator("kafka_oauth_token_url")
    @classmethod
    def _endpoint_is_a_url(cls, url: str) -> str:
        if url and not url.startswith(("https://", "http://")):
            raise ValueError("write https://…")
        return url

    @field_validator("kafka_properties")
    @classmethod
    def _properties_are_tuning(cls, text: str) -> str:
        if flaw := find_flaw(text):
            raise ValueError(flaw)
        return text

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        for flaw in self._flaws():
            raise ValueError(flaw)
        return self

    def _flaws(self) -> Iterator[str]:
        protocol, mechanism = self.kafka_security_protocol, self.kafka_sasl_mechanism
        if mechanism is None and protocol.startswith("SASL"):
            yield f"{setting('sasl_mechanism')}: required by {setting('security_protocol')}={protocol}"
        if mechanism is not None and not protocol.startswith("SASL"):
            yield f"{setting('sasl_mechanism')}: requires {setting('security_protocol')}=SASL_SSL"
        if not protocol.endswith("SSL"):
            yield from self._unused(_TLS_ONLY, f"{setting('security_protocol')}=SSL or SASL_SSL")
        yield from self._together(("certificate_file", "key_file"))
        if self._has("key_password") and not self._has("key_file"):
            yield f"{setting('key_file')}: required by {setting('key_password')}"
        by_password = mechanism is not None and mechanism.startswith(("PLAIN", "SCRAM"))
        if by_password:
            yield from self._missing(_BY_PASSWORD, f"{setting('sasl_mechanism')}={mechanism}")
        else:
            yield from self._unused(_BY_PASSWORD, f"{setting('sasl_mechanism')}=PLAIN or SCRAM-SHA-…")
        if mechanism == "AWS_MSK_IAM" and protocol != "SASL_SSL":
            yield f"{setting('security_protocol')}: AWS_MSK_IAM requires SASL_SSL"
        if mechanism != "OAUTHBEARER":
            yield from self._unused(_OF_TOKEN, f"{setting('sasl_mechanism')}=OAUTHBEARER")
        elif self._has("token_provider"):
            others = [name for name in _OF_TOKEN[:-1] if self._has(name)]
            yield from (f"{setting(one)}: pass {setting('token_provider')} alone" for one in others)
        elif not any(map(self._has, _OF_TOKEN)):
            yield (f"{setting('oauth_token_url')}: OAUTHBEARER requires it, or {setting('token_provider')}")
        else:
            yield from self._missing(_OF_ENDPOINT, f"{setting('sasl_mechanism')}=OAUTHBEARER")

    def _has(self, name: str) -> bool:
        value = getattr(self, f"kafka_{name}")
        return bool(value.get_secret_value() if isinstance(value, SecretStr) else value)

    def _missing(self, names: tuple[str, ...], by: str) -> Iterator[str]:
        yield from (f"{setting(name)}: required by {by}" for name in names if not self._has(name))

    def _unused(self, names: tuple[str, ...], needs: str) -> Iterator[str]:
        yield from (f"{setting(name)}: requires {needs}" for name in names if self._has(name))

    def _together(self, names: tuple[str, str]) -> Iterator[str]:
        for missing, given in (names, names[::-1]):
            if self._has(given) and not self._has(missing):
                yield f"{setting(missing)}: required by {setting(given)}"

    def environ(self) -> dict[str, str]:
        """Returns the settings that differ from their defaults. They contain secrets: never print them."""
        made = {}
        for name in KafkaSecurity.model_fields:
            value = getattr(self, name)
            if getattr(self, f"{name}_file", ""):
                continue  # the file of the secret has a setting of its own
            if value != KafkaSecurity.model_fields[name].default:
                shown = value.get_secret_value() if isinstance(value, SecretStr) else value
                made[f"SLUICE_{name.upper()}"] = str(shown)
        return made


SECRETS = tuple(name for name, field in KafkaSecurity.model_fields.items() if field.annotation is SecretStr)
"""The secrets. The file of each has the same name with `_file` at its end."""

PLAINTEXT = KafkaSecurity.model_validate({})


@dataclass(frozen=True)
class KafkaAccess:
    """How clients reach the brokers."""

    bootstrap_servers: str
    """host:port[,host:port]"""
    security: KafkaSecurity = PLAINTEXT

    def find_plaintext(self) -> list[str]:
        """Returns the servers that other machines reach without TLS."""
        if self.security.kafka_security_protocol.endswith("SSL"):
            return []
        return [one for one in self.bootstrap_servers.split(",") if not _LOOPBACK.match(one)]

    @property
    def is_secured(self) -> bool:
        """True if the brokers may refuse a certificate or a login."""
        return self.security.kafka_security_protocol != "PLAINTEXT"

    @property
    def tuning(self) -> Mapping[str, Any]:
        """The properties of librdkafka that the user set."""
        return dict(json.loads(self.security.kafka_properties or "{}"))
