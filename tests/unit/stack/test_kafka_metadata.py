"""The bytes of the answer in which a broker lists all brokers of its cluster."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluice.stack.kafka_metadata import REQUEST, read_brokers

HOSTS = st.text(st.characters(codec="utf-8"), max_size=40)
BROKERS = st.lists(st.tuples(HOSTS, st.integers(0, 65_535), st.none() | HOSTS), max_size=4)


def encode(brokers: list[tuple[str, int, str | None]]) -> bytes:
    """Encodes an answer with its correlation id, a controller and no topics."""
    answer = struct.pack(">ii", 0, len(brokers))
    for number, (host, port, rack) in enumerate(brokers):
        name, place = host.encode(), (rack or "").encode()
        answer += struct.pack(">ih", number, len(name)) + name + struct.pack(">i", port)
        answer += struct.pack(">h", -1 if rack is None else len(place)) + place
    return answer + struct.pack(">ii", 1, 0)


@given(BROKERS)
def test_every_broker_is_read(brokers: list[tuple[str, int, str | None]]) -> None:
    assert list(read_brokers(encode(brokers))) == [(host, port) for host, port, _ in brokers]


@given(st.binary(max_size=200))
def test_reading_invalid_bytes_ends_or_raises_an_error(answer: bytes) -> None:
    try:
        assert all(isinstance(port, int) for _, port in read_brokers(answer))
    except struct.error:
        return


def test_a_truncated_answer_raises_an_error() -> None:
    answer = encode([("a", 1, None)])
    with pytest.raises(struct.error):
        list(read_brokers(answer[:15]))


def test_the_request_states_its_own_length() -> None:
    assert struct.unpack_from(">i", REQUEST) == (len(REQUEST) - 4,)
