"""The migrations that produce the tables of `sluice.db.schema`, one file per change."""
