"""Settings: read once per process from the environment into one frozen, validated object."""

import os
from collections.abc import Mapping
from typing import Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from sluice.runtime.installation import NAME_PATTERN
from sluice.runtime.kafka_access import KafkaAccess, KafkaSecurity
from sluice.runtime.partition_share import PartitionShare, parse_share
from sluice.runtime.password_provider import PROVIDER_PATTERN
from sluice.runtime.redis_address import parse_redis_url
from sluice.runtime.schema_name import (
    DEFAULT_SCHEMA,
    SCHEMA_SETTING,
    SchemaRefused,
    merge_schema,
    parse_schema,
)
from sluice.runtime.secret_files import FILE_SUFFIX, SecretRefused, merge_secrets
from sluice.runtime.service_links import without_service_links

PREFIX = "SLUICE_"
MAX_SOURCE_CHARACTERS = 255

MISSING_HINT = (
    'Set what is missing, or run: eval "$(sluice stack up)" (in a project of `sluice new DIR`: make shell)'
)

Kind = TypeVar("Kind", bound=BaseModel)


class SettingsError(ValueError):
    """Raised if Sluice cannot start with these environment variables.

    The message has the name and the remedy.
    """


class FaultSettings(BaseModel):
    """The fault points to arm. Every process reads them, even a process that needs no other setting."""

    model_config = ConfigDict(frozen=True)

    faults: str = Field("", description="named fault points, for tests, as in apply.before_commit:3:kill")
    allow_faults: bool = Field(False, description="1: SLUICE_FAULTS may break this program")

    @model_validator(mode="after")
    def _faults_are_allowed(self) -> Self:
        if self.faults and not self.allow_faults:
            raise ValueError(
                "SLUICE_FAULTS breaks the program on purpose, for tests; remove it, or also set"
                " SLUICE_ALLOW_FAULTS=1"
            )
        return self


class Settings(KafkaSecurity, FaultSettings):
    """The settings that differ between deployments. The names contain the units.

    Secrets are never printed.
    """

    database_url: SecretStr = Field(description="postgresql+psycopg2://user:password@host:port/database")
    database_password: SecretStr = Field(
        SecretStr(""), description="password for Postgres, in place of the URL's; any character"
    )
    database_password_provider: str = Field(
        "",
        pattern=f"^({PROVIDER_PATTERN})?$",
        description="module:function that returns the password for Postgres; asked at each connect",
    )
    # Ends with _ because pydantic has an attribute without it.
    schema_: str = Field(
        DEFAULT_SCHEMA, description="schema of Postgres that holds the tables of this installation"
    )
    redis_url: SecretStr = Field(description="redis://host:port/0")
    redis_password: SecretStr = Field(
        SecretStr(""), description="password for Redis, in place of the URL's; any character"
    )
    redis_sentinel_password: SecretStr = Field(
        SecretStr(""), description="password for the Sentinels of a sentinel:// URL"
    )
    kafka_bootstrap_servers: str = Field(description="host:port[,host:port]")
    handlers: str = Field("", description="modules with handlers, comma separated")
    name: str = Field(
        "sluice",
        pattern=f"^{NAME_PATTERN}$",
        description="name of the installation, as `sluice init` stored it",
    )
    partition_share: str = Field(
        "1/1",
        description="K/N: the installation takes the partitions p with p mod N = K - 1",
    )
    kafka_client: Literal["confluent", "kafka-python"] = "confluent"
    bridge_memory_mib: int = Field(
        256, ge=8, description="memory for unapplied records in one bridge, sum of all partitions"
    )
    max_record_kib: int = Field(
        8_192,
        ge=64,
        le=32_768,
        description="size of key, headers and value of a record; a larger value stays in Kafka",
    )
    bridge_span_records: int = Field(
        400_000,
        ge=1_000,
        description="limit for position − watermark, sum of all partitions",
    )
    handler_seconds: float = Field(
        10,
        ge=0.1,
        le=300,
        allow_inf_nan=False,
        description="time that all handlers of one event may use together, in one run",
    )
    handler_effects: int = Field(
        100_000, ge=1, le=10_000_000, description="effects that all handlers of one event may yield together"
    )
    optimistic: Literal["auto", "always", "never"] = Field(
        "auto", description="batches that are written without reading their rows first"
    )
    source: str = Field(
        "",
        max_length=MAX_SOURCE_CHARACTERS,
        description="CloudEvents source of emitted events; empty: <name>-<short id>",
    )
    keep_identities_days: int = Field(30, ge=1, description="least time to keep identities of events")
    keep_effects_days: int = Field(90, ge=1, description="time to keep succeeded calls")
    keep_dead_letters_days: int = Field(90, ge=1, description="time to keep finished dead letters")
    visibility_timeout_seconds: int = Field(
        60, ge=1, description="time until a dead worker's message is restored"
    )
    log_format: Literal["json", "console"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    health_file: str = Field("", description="file that a healthy process touches every few seconds")
    metrics_host: str = Field("127.0.0.1", min_length=1, description="address of the metrics endpoint")
    metrics_port: int = Field(0, ge=0, le=65_535, description="port of the metrics endpoint; 0: no endpoint")
    stack_cache: str = Field("", description="folder in which the local stack stores Kafka's jars")

    @property
    def kafka_access(self) -> KafkaAccess:
        """How the clients of this process reach Kafka. Every client is built from it."""
        named = {name: getattr(self, name) for name in KafkaSecurity.model_fields}
        return KafkaAccess(self.kafka_bootstrap_servers, KafkaSecurity.model_construct(**named))

    @property
    def max_record_bytes(self) -> int:
        """`max_record_kib` in bytes."""
        return self.max_record_kib * 1024

    @property
    def share(self) -> PartitionShare:
        """`partition_share`, parsed."""
        return parse_share(self.partition_share)

    @field_validator("schema_")
    @classmethod
    def _schema_is_valid(cls, schema: str) -> str:
        return parse_schema(schema)

    @field_validator("partition_share")
    @classmethod
    def _share_is_valid(cls, share: str) -> str:
        return str(parse_share(share))

    @field_validator("redis_url")
    @classmethod
    def _redis_url_is_valid(cls, url: SecretStr) -> SecretStr:
        for path in parse_redis_url(url.get_secret_value()).files:
            if not os.access(path, os.R_OK):
                raise ValueError(f"cannot read the file {path}")
        return url

    @field_validator("database_url")
    @classmethod
    def _driver_is_named(cls, url: SecretStr) -> SecretStr:
        scheme, separator, _ = url.get_secret_value().partition("://")
        if scheme != "postgresql+psycopg2":
            # For the scheme without a driver, SQLAlchemy 2.1 uses psycopg 3, which is not installed here.
            # A text without a scheme may be a password.
            found = f"starts with {scheme!r}" if separator else "has no scheme"
            raise ValueError(f"{found}; write postgresql+psycopg2://…")
        return url


def variable(field: str) -> str:
    """Returns the environment variable of a setting."""
    return PREFIX + field.rstrip("_").upper()


SECRETS = tuple(name for name, field in Settings.model_fields.items() if field.annotation is SecretStr)
"""The settings that may be in a file: SLUICE_X_FILE names the file of SLUICE_X."""


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Returns the settings. Raises SettingsError with a sentence per wrong, missing or unknown name.

    Ignores the variables that Kubernetes adds for Services. The URLs contain the passwords that have settings
    of their own, or the names of their files, and the database's URL names the schema.
    """
    environ = without_service_links(os.environ if environ is None else environ)
    known = set(map(variable, Settings.model_fields))
    files = {variable(name) + FILE_SUFFIX for name in SECRETS}
    unknown = sorted(name for name in environ if name.startswith(PREFIX) and name not in known | files)
    if unknown:
        raise SettingsError(
            f"unknown settings {', '.join(unknown)}; known are {', '.join(sorted(known))},"
            f" and with {FILE_SUFFIX} at its end each of {', '.join(map(variable, SECRETS))}"
        )
    return _validate(Settings, _with_schema(with_secrets(environ)))


def _with_schema(environ: Mapping[str, str]) -> dict[str, str]:
    try:
        return merge_schema(environ)
    except SchemaRefused as error:
        raise SettingsError(f"{SCHEMA_SETTING}: {error}") from None


def with_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment with the secrets from their files, and with the passwords in the URLs.

    Raises SettingsError.
    """
    try:
        return merge_secrets(environ, [variable(name) for name in SECRETS])
    except SecretRefused as error:
        raise SettingsError(str(error)) from None


def read_kafka_security(environ: Mapping[str, str]) -> KafkaSecurity:
    """Returns the settings of the connections to Kafka. Raises SettingsError."""
    return _validate(KafkaSecurity, with_secrets(environ))


def read_faults(environ: Mapping[str, str]) -> str:
    """Returns the fault points to arm. Raises SettingsError unless they are allowed."""
    return _validate(FaultSettings, environ).faults


def _validate(kind: type[Kind], environ: Mapping[str, str]) -> Kind:
    names = {variable(name): name for name in kind.model_fields}
    given = {field: environ[name] for name, field in names.items() if name in environ}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        # str(error) is not used, because it contains the values of settings.
        found = error.errors()
        hint = f". {MISSING_HINT}" if any(_is_missing(one) for one in found) else ""
        raise SettingsError("; ".join(map(_sentence, found)) + hint) from None


def read_optimistic(environ: Mapping[str, str] | None = None) -> Literal["auto", "always", "never"]:
    """Returns SLUICE_OPTIMISTIC. Any other value counts as "auto"; `read_settings` refuses it."""
    value = (os.environ if environ is None else environ).get(f"{PREFIX}OPTIMISTIC", "auto")
    return "always" if value == "always" else "never" if value == "never" else "auto"


def read_schema(environ: Mapping[str, str] | None = None) -> str:
    """Returns SLUICE_SCHEMA, also if only SLUICE_DATABASE_URL names the schema. Raises SettingsError.

    Needs no other setting, for a process that only emits events in a user's own transaction.
    """
    found = _with_schema(os.environ if environ is None else environ).get(SCHEMA_SETTING, DEFAULT_SCHEMA)
    try:
        return parse_schema(found)
    except SchemaRefused as error:
        raise SettingsError(f"{SCHEMA_SETTING}: {error}") from None


def read_source(environ: Mapping[str, str] | None = None) -> str | None:
    """Returns SLUICE_SOURCE; None if it is empty or not set. Raises SettingsError.

    Reads no other setting, because a process that only emits events in a user's own transaction needs none.
    """
    source = (os.environ if environ is None else environ).get(f"{PREFIX}SOURCE", "")
    if len(source) > MAX_SOURCE_CHARACTERS:
        raise SettingsError(
            f"{PREFIX}SOURCE: it has {len(source)} characters; use at most {MAX_SOURCE_CHARACTERS}"
        )
    return source or None


def _is_missing(error: ErrorDetails) -> bool:
    return error["type"] == "missing"


def _sentence(error: ErrorDetails) -> str:
    message = "required, but not set" if _is_missing(error) else error["msg"].removeprefix("Value error, ")
    return f"{variable(str(error['loc'][0]))}: {message}" if error["loc"] else message
