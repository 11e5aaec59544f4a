"""`python -m bench.pace`: an open loop, which sends each event at its scheduled time and waits for none."""

import argparse
import time
from collections.abc import Iterator

from confluent_kafka import Producer

from bench.app import TOPIC
from bench.events import BenchEvent, generate_events, violating_at

LINGER_MS = 5  # the default of librdkafka, and of Java since Kafka 4; with 1 the broker takes a whole core
LONGEST_NAP_SECONDS = 0.0005
FLUSH_SECONDS = 30.0


def scheduled_at(place: int, *, start_at: float, rate: float) -> float:
    """Returns the time to send the event with this index, in seconds since 1970."""
    return start_at + place / rate


def due_events(events: Iterator[BenchEvent], *, start_at: float, rate: float) -> Iterator[BenchEvent | None]:
    """Yields each event when it is due, and None while no event is due."""
    for place, event in enumerate(events):
        while time.time() < scheduled_at(place, start_at=start_at, rate=rate):
            yield None
        yield event


def main() -> None:
    """Sends all events."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap-servers", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="events a second")
    parser.add_argument("--start-at", type=float, required=True, help="seconds since 1970")
    parser.add_argument("--poison-at", type=int, help="index of the event that Postgres refuses")
    parser.add_argument("--first", type=int, default=0, help="number of the first event")
    parser.add_argument("--new-keys", action="store_true", help="give each event a key of its own")
    options = parser.parse_args()
    producer = Producer(
        {
            "bootstrap.servers": options.bootstrap_servers,
            "partitioner": "murmur2_random",
            "linger.ms": LINGER_MS,
            "enable.idempotence": True,
        }
    )
    # Generated before the start, so that the latency does not include this time.
    events = list(
        generate_events(
            options.count,
            seed=options.seed,
            kinds=None if options.poison_at is None else violating_at(options.poison_at),
            first=options.first,
            new_keys=options.new_keys,
        )
    )
    for event in due_events(iter(events), start_at=options.start_at, rate=options.rate):
        if event is None:
            producer.poll(0)
            time.sleep(LONGEST_NAP_SECONDS)
        else:
            producer.produce(TOPIC, event.value, event.key.encode())
    producer.flush(FLUSH_SECONDS)


if __name__ == "__main__":
    main()
