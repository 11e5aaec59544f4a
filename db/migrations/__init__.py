"""How the tables of `sluice.db.schema` came to be, one file per change."""
