"""The oracle of the test kit."""

from sluice.testing.servers.oracle import differences, read_log

__all__ = ["differences", "read_log"]
