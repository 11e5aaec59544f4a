"""`sluice trace`: what became of one event."""
