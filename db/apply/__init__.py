"""SQL of the apply transaction."""
