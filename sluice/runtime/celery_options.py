"""Celery's options for Redis, which the publishers and the workers of batches must share."""

from collections.abc import Callable
from functools import cached_property
from typing import Any
from urllib.parse import quote

from celery import Celery
from kombu.entity import Exchange, Queue

from sluice.runtime.installation import Installation
from sluice.runtime.redis_address import RedisAddress, parse_redis_url
from sluice.runtime.redis_pool import LIMITS
from sluice.runtime.redis_transport import install_transport
from sluice.runtime.secret_files import SecretUnreadable, current_url
from sluice.runtime.settings import Settings, SettingsError

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

# The default exchange has no name. For this exchange kombu reads no bindings, which other clients of Redis
# could write.
EXCHANGE = Exchange("", type="direct")  # type: ignore[no-untyped-call]

# All numbers are seconds, except the throttle (rounds), the limit (messages) and the steps (priorities).
TRANSPORT_OPTIONS: dict[str, Any] = {
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    "unacked_mutex_expire": 10,
    # The most entries of `unacked` per round. Other clients of Redis may write many entries, which must not
    # block the loop.
    "unacked_restore_limit": 100,
    # With one priority, each queue is one list with the name of the queue, and LLEN returns its length.
    "priority_steps": [0],
    **LIMITS,
    "health_check_interval": 10,
}


class SluiceCelery(Celery):  # type: ignore[misc]
    """Celery's application. Its connections add the prefix of the installation to every key.

    The installation is read from Postgres when the first connection is made. Therefore a command like `celery
    --help` reads nothing.
    """

    sluice_settings: Settings
    sluice_membership: Any
    """The membership of a worker or a beat, once it has joined its installation."""
    read_installation: Callable[[], Installation]

    @cached_property
    def sluice_installation(self) -> Installation:
        """The installation. The first use may wait for Postgres. Raises InstallationRefused."""
        return self.read_installation()

    def _connection(self, *args: Any, **kwargs: Any) -> Any:
        # The option is changed in place, because Flower also reads it.
        self.conf.broker_transport_options["global_keyprefix"] = self.sluice_installation.redis_prefix
        return super()._connection(*args, **kwargs)


def make_celery(settings: Settings, read_installation: Callable[[], Installation]) -> SluiceCelery:
    """Returns an application that can publish. Imports no handlers and connects to no service."""
    install_transport()
    redis_url = settings.redis_url.get_secret_value()
    app = SluiceCelery("sluice", broker=flower_url(redis_url))
    app.sluice_settings = settings
    app.read_installation = read_installation
    app.conf.update(
        # A result backend would cost a write per task, and would block for 19 s if Redis does not answer.
        result_backend=None,
        task_ignore_result=True,
        # Used only for remote control. Tasks are read from signed messages.
        accept_content=["json"],
        # Only `sluice init` and a re-routing create queues. A misspelt name must not create a queue.
        task_create_missing_queues=False,
        # A batch is applied within seconds, so the message of a dead worker can be restored soon. If a
        # message is restored too early, the delivery guard skips the records that were already applied.
        broker_transport_options={
            **TRANSPORT_OPTIONS,
            "visibility_timeout": settings.visibility_timeout_seconds,
            "redis_url": redis_url,
            **flower_sentinel_options(redis_url),
        },
        broker_use_ssl=flower_tls_options(redis_url),
    )
    return app


def flower_url(redis_url: str) -> str:
    """Returns the address in the form that Flower and kombu parse. The transport uses its option `redis_url`.

    Of several Sentinels it has the first one. Raises SettingsError.
    """
    address = _current_address(redis_url)
    login = f"{quote(address.username, safe='')}:{quote(address.password, safe='')}@"
    login = login if address.username or address.password else ""
    if address.path:
        return f"redis+socket://{login}{address.path}"
    host, port = address.servers[0]
    scheme = "sentinel" if address.service else "redis" if address.tls is None else "rediss"
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{login}{host}:{port}/{address.database}"


def flower_tls_options(redis_url: str) -> dict[str, Any] | None:
    """Returns the options with which Flower verifies the certificate; None without TLS."""
    tls = parse_redis_url(redis_url).tls
    return None if tls is None else dict(tls)


def flower_sentinel_options(redis_url: str) -> dict[str, Any]:
    """Returns the options with which Flower finds the server behind a Sentinel. Raises SettingsError."""
    address = _current_address(redis_url)
    if not address.service:
        return {}
    login = {"username": address.sentinel_username or None, "password": address.sentinel_password or None}
    tls = {} if address.tls is None else {"ssl": True, **address.tls}
    return {"master_name": address.service, "sentinel_kwargs": {**login, **tls}}


def _current_address(redis_url: str) -> RedisAddress:
    try:
        return parse_redis_url(current_url(redis_url))
    except (SecretUnreadable, ValueError) as error:
        raise SettingsError(f"SLUICE_REDIS_URL: {error}") from None


def apply_queue(name: str) -> Queue:
    """Returns the queue as publishers and workers declare it."""
    return Queue(name, EXCHANGE, routing_key=name)  # type: ignore[no-untyped-call]
