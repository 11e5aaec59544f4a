"""Batches of every codec, and batches that every kind of damage makes unreadable, with each client."""

from collections.abc import Callable

import pytest

from sluice.stack import Stack
from tests.harness.raw_batches import (
    damage_batch,
    damage_payload,
    damage_second_record,
    flip_last_byte,
    set_unknown_codec,
    set_unknown_format,
)
from tests.system.cli.skipping import (
    assert_commands_read,
    payment_records,
    place_of,
    produce_records,
    skip_document,
    wait_applied,
)
from tests.system.conftest import MakeDeployment
from tests.system.tasks.rebuilding import payment

pytestmark = pytest.mark.matrix

# Each case: the codec, the damage, and how many of the three records the client still returns.
DAMAGES: tuple[tuple[str, Callable[[bytearray], None], int], ...] = (
    *((codec, damage_payload, 0) for codec in ("gzip", "snappy", "lz4", "zstd")),
    ("zstd", set_unknown_codec, 0),
    ("none", damage_second_record, 1),
)
# The other cases are only for one client. kafka-python reads every later format as format 2, so it returns
# such records. librdkafka does not check checksums.
ONLY: dict[str, tuple[tuple[str, Callable[[bytearray], None], int], ...]] = {
    "confluent": (("none", set_unknown_format, 0),),
    "kafka-python": (("none", flip_last_byte, 0),),
}


@pytest.mark.parametrize("client", ONLY)
def test_a_batch_with_any_damage_can_be_skipped(
    make_deployment: MakeDeployment, kafka: Stack, client: str
) -> None:
    deployment = make_deployment(partitions=1, SLUICE_KAFKA_CLIENT=client)
    damages = [*DAMAGES, *ONLY[client]]
    deployment.produce([payment(9)])
    # No bridge runs yet, because it would read a batch before the test damages it.
    firsts = []
    for number, (codec, damage, _) in enumerate(damages, start=1):
        first = produce_records(deployment, payment_records(10 * number, 3), codec=codec)
        damage_batch(kafka, place_of(deployment), first, damage)
        deployment.produce([payment(10 * number + 3)])
        firsts.append(first)
    deployment.run.start_bridge()
    deployment.run.start_worker(deployment.queues("payment"))
    applied = 1
    for first, (_, damage, readable) in zip(firsts, damages, strict=True):
        wait_applied(deployment, applied + readable)
        shown = skip_document(deployment, first + readable, "--yes")
        assert (shown["first_offset"], shown["last_offset"]) == (first + readable, first + 2), damage
        applied += readable + 1
    wait_applied(deployment, applied)


def test_every_codec_is_read_with_kafka_python(make_deployment: MakeDeployment) -> None:
    assert_commands_read(make_deployment, SLUICE_KAFKA_CLIENT="kafka-python")
