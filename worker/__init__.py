"""The processes that run tasks: the Celery application and its settings."""

if __name__ != "sluice.worker":
    raise ImportError("import sluice.worker: the folder with sluice/ belongs on the path, not its parts")
