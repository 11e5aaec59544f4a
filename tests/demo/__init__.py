"""The demo of `make demo`: scenarios that run on real servers and cause faults."""
