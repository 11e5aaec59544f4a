"""`make demo`: the scenarios, on real services, with their faults."""
