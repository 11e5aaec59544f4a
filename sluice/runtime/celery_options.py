"""How Celery reaches Redis: what the producers and the workers of batches must agree on."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

from celery import Celery
from kombu.entity import Exchange, Queue

from sluice.runtime.installation import Installation
from sluice.runtime.redis_client import SOCKET_TIMEOUT_SECONDS
from sluice.runtime.redis_transport import install_transport
from sluice.runtime.settings import Settings

RELAY_QUEUE, MAINTENANCE_QUEUE, EFFECTS_QUEUE, REBUILD_QUEUE = "relay", "maintenance", "effects", "rebuild"
SERVICE_QUEUES = (RELAY_QUEUE, MAINTENANCE_QUEUE, EFFECTS_QUEUE, REBUILD_QUEUE)

APPLY_TASK = "sluice.apply"
RELAY_TASK = "sluice.relay"
EFFECT_TASK = "sluice.run_effect"
REBUILD_TASK = "sluice.rebuild"
START_REBUILDS_TASK = "sluice.start_rebuilds"
START_RETRIES_TASK = "sluice.start_retries"
EXPIRE_CLAIMS_TASK = "sluice.expire_claims"
PURGE_TASK = "sluice.purge"
SELF_CHECK_TASK = "sluice.self_check"

# Without a name: kombu reads no bindings for it, which others could write.
EXCHANGE = Exchange("", type="direct")  # type: ignore[no-untyped-call]

# Seconds, but for the throttle (rounds) and the steps (priorities).
TRANSPORT_OPTIONS: dict[str, Any] = {
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": 10,
    # Of one look: what others wrote into `unacked` must not hold up the loop.
    "unacked_restore_limit": 100,
    # One list per queue, called like the queue: its length is one LLEN.
    "priority_steps": [0],
    "socket_timeout": SOCKET_TIMEOUT_SECONDS,
    "socket_connect_timeout": SOCKET_TIMEOUT_SECONDS,
    "health_check_interval": 10,
}


class SluiceCelery(Celery):  # type: ignore[misc]
    """Celery's application, whose connections carry the prefix of the installation.

    The installation is read when the first connection is made: a command like `celery --help` reads nothing.
    """

    sluice_settings: Settings
    sluice_membership: Any
    """What a worker or a beat has once it takes part in its installation."""
    read_installation: Callable[[], Installation]

    @cached_property
    def sluice_installation(self) -> Installation:
        """The installation. The first use may wait for Postgres. Raises InstallationRefused."""
        return self.read_installation()

    def _connection(self, *args: Any, **kwargs: Any) -> Any:
        # Changed in place: Flower reads this option, too.
        self.conf.broker_transport_options["global_keyprefix"] = self.sluice_installation.redis_prefix
        return super()._connection(*args, **kwargs)


def make_celery(settings: Settings, read_installation: Callable[[], Installation]) -> SluiceCelery:
    """An application that can publish; importing nothing, connecting to nothing."""
    install_transport()
    app = SluiceCelery("sluice", broker=settings.redis_url.get_secret_value())
    app.sluice_settings = settings
    app.read_installation = read_installation
    app.conf.update(
        # No result backend: a write less per task, and a dead Redis blocks for 19 s with one.
        result_backend=None,
        task_ignore_result=True,
        # Of remote control alone; tasks are read by their signed form.
        accept_content=["json"],
        # A queue comes from `sluice init` or a re-routing, never from a misspelt name.
        task_create_missing_queues=False,
        # A batch is applied within seconds; that of a dead worker should come back soon. The guard makes
        # a message that returns too early harmless.
        broker_transport_options={
            **TRANSPORT_OPTIONS,
            "visibility_timeout": settings.visibility_timeout_seconds,
        },
    )
    return app


def apply_queue(name: str) -> Queue:
    """The queue as both sides declare it."""
    return Queue(name, EXCHANGE, routing_key=name)  # type: ignore[no-untyped-call]
