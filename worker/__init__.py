"""The processes that run tasks: the Celery application and its settings."""

if __name__ != "sluice.worker":
    raise ImportError("import this package as sluice.worker; put the folder that holds sluice/ on the path")
