"""All access to Kafka: the consumers and their protocol, the producer, readers of a log."""
