"""A consumer raises an error if another member with its instance id has fenced it, on a real broker."""

from contextlib import closing

import pytest
from kafka import KafkaProducer

from sluice.kafka_io.config import SESSION_TIMEOUT_MS
from sluice.kafka_io.consumer import Consumer, ConsumerBroken
from sluice.kafka_io.kafka_python_consumer import KafkaPythonConsumer
from sluice.runtime.kafka_access import KafkaAccess
from sluice.runtime.partition_share import WHOLE
from sluice.stack import Stack
from tests.system.kafka_io.consuming import CLIENTS, POLL_SECONDS, AnyConsumer, poll_until, produce
from tests.waiting import wait_until

# A heartbeat reports the fencing to the fenced member. There are three heartbeats in a session timeout. The
# limit is five session timeouts, because a busy machine is slow.
FENCED_SECONDS = 5 * SESSION_TIMEOUT_MS / 1_000


def _is_broken(consumer: Consumer) -> bool:
    try:
        consumer.poll(POLL_SECONDS)
    except ConsumerBroken:
        return True
    return False


@pytest.mark.parametrize("reported_by", ["heartbeat", "commit"])
@pytest.mark.parametrize("client", CLIENTS)
def test_every_poll_of_a_fenced_member_raises_an_error(
    kafka: Stack, producer: KafkaProducer, topic: str, client: type[AnyConsumer], reported_by: str
) -> None:
    """The client library reports the fatal error at most one time.

    After that, polls of the library return no records and raise no error, so the consumer must raise the
    error.
    """
    places = {(topic, 0), (topic, 1)}

    def join() -> Consumer:
        return client(
            KafkaAccess(kafka.kafka_bootstrap_servers()),
            group=f"group-{topic}",
            instance="same",
            topics=[topic],
            share=WHOLE,
        )

    def has_joined(member: Consumer) -> bool:
        member.poll(POLL_SECONDS)
        return member.assignment() == places and not is_rejoining(member)

    def is_fenced() -> bool:
        if reported_by == "commit":
            fenced.commit(dict.fromkeys(places, 0))
        second.poll(POLL_SECONDS)
        return _is_broken(fenced)

    fenced = join()
    wait_until(lambda: has_joined(fenced), timeout_seconds=30, what="the first member has the partitions")
    with closing(join()) as second:
        wait_until(lambda: has_joined(second), timeout_seconds=30, what="the second member has joined")
        wait_until(is_fenced, timeout_seconds=FENCED_SECONDS, what="the first member raises")
        assert _is_broken(fenced), "a later poll must raise the error, too"
        fenced.close()
        for place in places:
            second.seek(place, 0)
        produce(producer, topic, 0, 10)
        poll_until(second, {}, (topic, 0), 10)


def is_rejoining(member: Consumer) -> bool:
    """Returns True if a kafka-python client must send another join request.

    If the member was fenced now, the answer to this request would report it, not a heartbeat or a commit.
    """
    return isinstance(member, KafkaPythonConsumer) and member._consumer._coordinator.need_rejoin()
