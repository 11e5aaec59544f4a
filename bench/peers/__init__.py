"""What others would write instead of Sluice, for the bench: the same rows at the end, other guarantees.

Each peer has `GUARANTEE`, one sentence to print beside its number, and `main()`, which is one process.
"""
