"""SQL of the relay and of calls."""
