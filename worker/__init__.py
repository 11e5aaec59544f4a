"""The processes that run tasks: worker, beat and the supervisor of a worker."""

if __name__ != "sluice.worker":
    raise ImportError("import this package as sluice.worker; put the folder that holds sluice/ on the path")
