"""The application of `sharing_app` in workers with broken leases: each worker takes all queues."""

import os
from typing import Any

from sluice.worker import lease_assignor, lease_thread
from tests.system.worker.sharing_app import *  # noqa: F403

# Breaks the leases only in a worker, because the test process also imports this module.
if "SLUICE_HANDLERS" in os.environ:
    broken: Any = lease_thread
    broken.try_lease = lambda _session, _queue: True
    broken.end_lease = lambda _session, _queue: None
    broken = lease_assignor
    broken.fair_share = lambda _held, _me, queues: queues
