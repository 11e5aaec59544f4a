"""The time at which a worker sends its events for Flower."""

from kombu.asynchronous import Hub

from sluice.worker.reconnecting_consumer import ReconnectingConsumer


def test_the_events_of_several_batches_wait_for_one_flush() -> None:
    consumer = ReconnectingConsumer.__new__(ReconnectingConsumer)
    consumer.hub, consumer.event_dispatcher, consumer.flush_at = Hub(), None, 0.0  # type: ignore[no-untyped-call]
    for _ in range(6):
        consumer.on_send_event_buffered()
    assert len(consumer.hub.timer) == 1
