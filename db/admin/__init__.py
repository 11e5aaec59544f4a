"""SQL of the operators' commands."""
