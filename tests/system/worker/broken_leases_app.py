"""The application of the sharing, in workers whose leases mean nothing: each takes all queues for itself."""

from typing import Any

from sluice.worker import lease_assignor, lease_thread
from tests.system.worker.sharing_app import *  # noqa: F403

# Assigned by name: these modules are those of the worker that loads this one, and of nobody else.
broken: Any = lease_thread
broken.try_lease = lambda _session, _queue: True
broken.end_lease = lambda _session, _queue: None
broken = lease_assignor
broken.fair_share = lambda _held, _me, queues: queues
