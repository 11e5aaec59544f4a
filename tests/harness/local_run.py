"""Sluice's own processes, as the test kit starts them."""

from sluice.testing.servers.local_run import LocalRun, RunningProcess

__all__ = ["LocalRun", "RunningProcess"]
