"""`sluice doctor`: finds what is wrong with an installation, and what the operator can do."""
