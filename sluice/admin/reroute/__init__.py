"""`sluice accept` and `sluice reshard`: what changes where an entity type's records are read and go."""
