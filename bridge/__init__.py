"""From Kafka partitions to Celery messages: raw bytes in, slices of lanes out, nothing decoded."""

if __name__ != "sluice.bridge":
    raise ImportError("import sluice.bridge: the folder with sluice/ belongs on the path, not its parts")
