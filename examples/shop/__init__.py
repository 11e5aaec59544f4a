"""The reference application: a small shop that acts out the seven scenarios."""
