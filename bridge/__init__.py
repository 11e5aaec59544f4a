"""From Kafka partitions to Celery messages: raw bytes in, slices of lanes out, nothing decoded."""
