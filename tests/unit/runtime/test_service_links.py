"""The variables that Kubernetes adds for a Service are ignored, and a mistyped setting is still refused."""

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.runtime.service_links import is_service_link, without_service_links
from sluice.runtime.settings import PREFIX, Settings, SettingsError, read_settings, variable

ENVIRON = {
    "SLUICE_DATABASE_URL": "postgresql+psycopg2://me@db/sluice",
    "SLUICE_REDIS_URL": "redis://cache/0",
    "SLUICE_KAFKA_BOOTSTRAP_SERVERS": "log:9092",
}
LABELS = st.from_regex(r"sluice(-[a-z0-9]{1,8}){0,3}", fullmatch=True)
PORT_NAMES = st.none() | st.from_regex(r"[a-z]{1,6}(-[a-z0-9]{1,6})?", fullmatch=True)
ADDRESSES = st.ip_addresses().map(str)
PORTS = st.integers(1, 65_535)
PROTOCOLS = st.sampled_from(["tcp", "udp", "sctp"])


def links_of(label: str, address: str, ports: list[tuple[int, str, str | None]]) -> dict[str, str]:
    """Returns the variables as the kubelet makes them (pkg/kubelet/envvars)."""
    service = label.upper().replace("-", "_")
    host = f"[{address}]" if ":" in address else address
    first, protocol, _ = ports[0]
    made = {
        f"{service}_SERVICE_HOST": address,
        f"{service}_SERVICE_PORT": str(first),
        f"{service}_PORT": f"{protocol}://{host}:{first}",
    }
    for number, protocol, name in ports:
        if name is not None:
            made[f"{service}_SERVICE_PORT_{name.upper().replace('-', '_')}"] = str(number)
        prefix = f"{service}_PORT_{number}_{protocol.upper()}"
        made[prefix] = f"{protocol}://{host}:{number}"
        made[f"{prefix}_PROTO"] = protocol
        made[f"{prefix}_PORT"] = str(number)
        made[f"{prefix}_ADDR"] = address
    return made


@given(LABELS, ADDRESSES, st.lists(st.tuples(PORTS, PROTOCOLS, PORT_NAMES), min_size=1, max_size=3))
def test_variables_of_any_service_stop_nothing(
    label: str, address: str, ports: list[tuple[int, str, str | None]]
) -> None:
    links = links_of(label, address, ports)
    assert without_service_links({**ENVIRON, **links}) == ENVIRON
    assert read_settings({**ENVIRON, **links}) == read_settings(ENVIRON)


NAMES = sorted(variable(name) for name in Settings.model_fields)
LETTERS = st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ_")
VALUES = st.sampled_from(
    ["", "9464", "0.0.0.0", "sluice", "info", "redis://10.0.0.1:6379", "10.0.0.1", "tcp"]
)


@given(st.sampled_from(NAMES), st.integers(len(PREFIX), 40), LETTERS, VALUES)
def test_a_mistyped_setting_is_refused(name: str, at: int, letter: str, value: str) -> None:
    for mistyped in (
        name[:at] + letter + name[at:],
        name[:at] + letter + name[at + 1 :],
        name[:at] + name[at + 1 :],
    ):
        if mistyped not in NAMES and mistyped.startswith(PREFIX):
            assert not is_service_link(mistyped, value)
            with pytest.raises(SettingsError, match="unknown settings"):
                read_settings({**ENVIRON, mistyped: value})


def test_a_setting_with_the_name_of_a_link_is_kept() -> None:
    assert read_settings({**ENVIRON, "SLUICE_METRICS_PORT": "9464"}).metrics_port == 9464
    assert read_settings({**ENVIRON, "SLUICE_METRICS_PORT": "tcp://10.0.0.1:9464"}).metrics_port == 0
    with pytest.raises(SettingsError, match="SLUICE_METRICS_PORT"):
        read_settings({**ENVIRON, "SLUICE_METRICS_PORT": "tcp://metrics:9464"})


def test_both_forms_of_an_address_are_links() -> None:
    assert is_service_link("SLUICE_SERVICE_HOST", str(IPv6Address("fd00::1")))
    assert is_service_link("SLUICE_PORT_8000_TCP_ADDR", "10.0.0.1")
    assert is_service_link("SLUICE_BRIDGE_PORT", "tcp://10.0.0.1:9464")
