"""Reads raw records from Kafka partitions and sends slices of lanes as Celery messages. Decodes nothing."""

if __name__ != "sluice.bridge":
    raise ImportError("import this package as sluice.bridge; put the folder that holds sluice/ on the path")
