"""The migrations to the tables of `sluice.db.schema`, one file per change."""
