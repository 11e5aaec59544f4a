"""The reference application: a small shop with a scenario for each of the seven failures in README.md."""
