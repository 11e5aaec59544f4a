"""Alternatives to Sluice, for the bench: they leave the same rows, with other guarantees.

Each peer has `GUARANTEE`, a sentence to print beside its figure, and `main()`, which runs one process.
"""
