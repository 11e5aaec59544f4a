"""Harness of tests, demo and bench: runs a deployment on this machine, causes faults and checks results."""
