"""The deployment of the test kit."""

from sluice.testing.servers.deployment import Deployment, NotSettled, Outgoing

__all__ = ["Deployment", "NotSettled", "Outgoing"]
