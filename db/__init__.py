"""All SQL of Sluice: one statement, one function."""

if __name__ != "sluice.db":
    raise ImportError("import this package as sluice.db; put the folder that holds sluice/ on the path")
