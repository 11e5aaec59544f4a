"""The reference application: a small shop with the seven scenarios."""
