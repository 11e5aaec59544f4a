"""Event processing: what a handler author imports, and the tasks that apply events."""

if __name__ != "sluice.tasks":
    raise ImportError("import sluice.tasks: the folder with sluice/ belongs on the path, not its parts")
