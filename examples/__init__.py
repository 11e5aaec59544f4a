"""Applications that show how Sluice is used."""
