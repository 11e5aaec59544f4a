"""A project of the user's own, as `sluice new` writes it. Uses nothing else of Sluice."""
