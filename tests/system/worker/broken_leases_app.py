"""The application of the sharing, in workers whose leases mean nothing: each takes all queues for itself."""

import os
from typing import Any

from sluice.worker import lease_assignor, lease_thread
from tests.system.worker.sharing_app import *  # noqa: F403

# Only in a worker: the process of the tests collects this module, too, and runs other tests afterwards.
if "SLUICE_HANDLERS" in os.environ:
    broken: Any = lease_thread
    broken.try_lease = lambda _session, _queue: True
    broken.end_lease = lambda _session, _queue: None
    broken = lease_assignor
    broken.fair_share = lambda _held, _me, queues: queues
