"""From Kafka partitions to Celery messages: raw bytes in, slices of lanes out, nothing decoded."""

if __name__ != "sluice.bridge":
    raise ImportError("import this package as sluice.bridge; put the folder that holds sluice/ on the path")
