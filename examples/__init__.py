"""Applications that show the use of Sluice."""
