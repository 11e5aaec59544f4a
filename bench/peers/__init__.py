"""Peers: alternatives to Sluice for the bench, which write the same rows with other guarantees.

Each peer has `GUARANTEE`, a text for the bench's tables, and `main()`, which runs one process.
"""
