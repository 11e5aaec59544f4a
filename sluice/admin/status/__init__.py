"""`sluice status`: how far each topic and queue is."""
