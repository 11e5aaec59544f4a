"""Real servers in tests of handlers: a world whose rows are in Postgres, and processes that are killed."""
