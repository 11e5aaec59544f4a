"""How the tables of `db.schema` came to be, one file per change."""
