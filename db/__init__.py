"""All SQL of Sluice: one statement, one function."""
