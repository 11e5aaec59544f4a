"""`sluice audit`: what was decided by hand."""
