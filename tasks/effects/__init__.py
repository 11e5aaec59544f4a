"""Side effects: calls to providers, made outside of every transaction."""
