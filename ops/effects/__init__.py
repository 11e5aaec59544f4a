"""`sluice effects`: calls that did not succeed, or not yet."""
