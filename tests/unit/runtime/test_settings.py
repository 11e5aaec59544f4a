"""Errors about settings name each wrong, missing or unknown setting, and never contain a secret."""

import pytest
from pydantic import ValidationError

from sluice.runtime.settings import SettingsError, read_faults, read_settings

SECRET = "hunter2"
ENVIRON = {
    "SLUICE_DATABASE_URL": f"postgresql+psycopg2://me:{SECRET}@db/sluice",
    "SLUICE_REDIS_URL": f"redis://:{SECRET}@cache/0",
    "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "log:9092",
}


def test_settings_are_read_with_defaults_for_missing_values() -> None:
    settings = read_settings(
        {**ENVIRON, "SLUICE_NAME": "other", "PATH": "/bin", "SLUICE_BRIDGE_MEMORY_MIB": "64"}
    )
    assert settings.database_url.get_secret_value() == ENVIRON["SLUICE_DATABASE_URL"]
    assert (settings.name, settings.bridge_memory_mib, settings.handlers) == (
        "other",
        64,
        "",
    )


def test_settings_cannot_be_changed_and_never_print_a_secret() -> None:
    settings = read_settings(ENVIRON)
    assert SECRET not in repr(settings) + str(settings)
    with pytest.raises(ValidationError):
        settings.name = "x"


def test_only_the_given_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_NAME", "of-the-process")
    assert read_settings(ENVIRON).name == "sluice"
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    assert read_settings().name == "of-the-process"


REFUSED = [
    ("unknown setting", {"SLUICE_NMAE": "x"}, "unknown settings SLUICE_NMAE; known are .*SLUICE_NAME"),
    (
        "scheme without driver",
        {"SLUICE_DATABASE_URL": f"postgresql://me:{SECRET}@db/x"},
        r"SLUICE_DATABASE_URL.*write postgresql\+psycopg2://",
    ),
    ("not a number", {"SLUICE_BRIDGE_MEMORY_MIB": "many"}, "SLUICE_BRIDGE_MEMORY_MIB"),
    (
        "too small",
        {"SLUICE_BRIDGE_MEMORY_MIB": "1"},
        "SLUICE_BRIDGE_MEMORY_MIB: .*greater than or equal to 8",
    ),
    ("too short", {"SLUICE_HANDLER_SECONDS": "0"}, "SLUICE_HANDLER_SECONDS: .*greater than or equal to 0.1"),
    ("infinite", {"SLUICE_HANDLER_SECONDS": "inf"}, "SLUICE_HANDLER_SECONDS: .*finite"),
    ("NaN seconds", {"SLUICE_HANDLER_SECONDS": "nan"}, "SLUICE_HANDLER_SECONDS: .*finite"),
    ("zero effects", {"SLUICE_HANDLER_EFFECTS": "0"}, "SLUICE_HANDLER_EFFECTS: .*greater than or equal to 1"),
    ("invalid port", {"SLUICE_METRICS_PORT": "65536"}, "SLUICE_METRICS_PORT: .*less than or equal to 65535"),
    ("empty host", {"SLUICE_METRICS_HOST": ""}, "SLUICE_METRICS_HOST: .*at least 1 character"),
    (
        "unknown client",
        {"SLUICE_KAFKA_CLIENT": "other"},
        "SLUICE_KAFKA_CLIENT.*'confluent' or 'kafka-python'",
    ),
    ("faults", {"SLUICE_FAULTS": "apply.begun:1:kill"}, "SLUICE_ALLOW_FAULTS=1"),
    (
        "forbidden faults",
        {"SLUICE_FAULTS": "apply.begun:1:kill", "SLUICE_ALLOW_FAULTS": "0"},
        "SLUICE_ALLOW_FAULTS=1",
    ),
]


@pytest.mark.parametrize(("wrong", "text"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
def test_a_wrong_setting_is_refused(wrong: dict[str, str], text: str) -> None:
    with pytest.raises(SettingsError, match=text) as refused:
        read_settings({**ENVIRON, **wrong})
    assert SECRET not in str(refused.value)


def test_faults_are_accepted_only_if_they_are_allowed() -> None:
    armed = {"SLUICE_FAULTS": "apply.begun:1:kill"}
    assert read_faults({}) == read_faults({"SLUICE_ALLOW_FAULTS": "1"}) == ""
    assert read_faults({**armed, "SLUICE_ALLOW_FAULTS": "1"}) == "apply.begun:1:kill"
    assert read_settings({**ENVIRON, **armed, "SLUICE_ALLOW_FAULTS": "1"}).faults == "apply.begun:1:kill"
    with pytest.raises(SettingsError, match="SLUICE_ALLOW_FAULTS=1"):
        read_faults(armed)


def test_all_missing_settings_are_named() -> None:
    with pytest.raises(SettingsError) as refused:
        read_settings({})
    assert all(name in str(refused.value) for name in ENVIRON)
