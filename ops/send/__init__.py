"""`sluice send`: events from a file or the shop's generator."""
