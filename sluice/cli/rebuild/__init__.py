"""`sluice rebuild`: its commands."""
