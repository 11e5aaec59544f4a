"""An answer without an offset raises an error of its partition."""

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaException

from sluice.kafka_io.leader_offsets import client_error, known_offset


@pytest.mark.parametrize("offset", [0, 7])
def test_a_valid_offset_is_returned(offset: int) -> None:
    assert known_offset(SimpleNamespace(offset=offset)) == offset


@pytest.mark.parametrize("offset", [-1, -1001])
def test_an_answer_without_an_offset_is_an_error_of_its_partition(offset: int) -> None:
    with pytest.raises(KafkaException) as raised:
        known_offset(SimpleNamespace(offset=offset))
    error = client_error(raised.value, ("t", 1))
    assert (error.code, error.topic, error.partition) == ("OFFSET_NOT_AVAILABLE", "t", 1)
