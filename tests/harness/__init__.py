"""A deployment on this machine, to be harmed and checked: for tests, demo and bench."""
