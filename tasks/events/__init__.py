"""Makes events from Kafka records: decoding, identity, routing."""
