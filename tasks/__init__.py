"""Event processing: the names that handler code imports, and the tasks that apply events."""

if __name__ != "sluice.tasks":
    raise ImportError("import this package as sluice.tasks; put the folder that holds sluice/ on the path")
