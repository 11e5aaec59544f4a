"""All SQL of Sluice: one statement, one function."""

if __name__ != "sluice.db":
    raise ImportError("import sluice.db: the folder with sluice/ belongs on the path, not its parts")
