"""All SQL of Sluice. Usually, a function runs one statement."""

if __name__ != "sluice.db":
    raise ImportError("import this package as sluice.db; put the folder that holds sluice/ on the path")
