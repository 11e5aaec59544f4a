"""From a Kafka record to an event: decoding, identity, routing."""
