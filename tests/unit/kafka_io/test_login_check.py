"""The addresses of the servers at which a login is tried."""

import pytest

from sluice.kafka_io.login_check import split_address


@pytest.mark.parametrize(
    ("server", "address"),
    [
        ("broker:9094", ("broker", 9094)),
        (" broker:9094", ("broker", 9094)),
        ("broker", ("broker", 9092)),
        ("[::1]:9094", ("::1", 9094)),
        ("[::1]", ("::1", 9092)),
    ],
)
def test_a_server_without_a_port_uses_the_port_of_kafka(server: str, address: tuple[str, int]) -> None:
    assert split_address(server) == address
