"""The local stack: a real Kafka, Postgres and Redis that belong to one folder."""

import os
import shutil
from pathlib import Path

from sluice.runtime.kafka_access import PLAINTEXT, KafkaAccess
from sluice.runtime.service_urls import StackUrls
from sluice.runtime.settings import Settings
from sluice.stack.kafka_broker import KafkaBroker
from sluice.stack.kafka_jars import cache_folder
from sluice.stack.ports import LOOPBACK
from sluice.stack.postgres_server import DATABASE, SUPERUSER, PostgresServer
from sluice.stack.redis_server import RedisServer
from sluice.stack.runner import Runner
from sluice.stack.secure_files import ADMINISTRATOR, make_secure_files, secure_folder
from sluice.stack.secure_kafka import SecureKafkaBroker, admin_security, user_security
from sluice.stack.secure_postgres import SecurePostgresServer
from sluice.stack.secure_postgres import secure_url as secure_database_url
from sluice.stack.secure_redis import SecureRedisServer
from sluice.stack.secure_redis import secure_url as secure_redis_url
from sluice.stack.service import Report, Service, ServiceName, ServiceStatus, StackError, StopSignal
from sluice.stack.stack_state import StackState

DEFAULT_NAME: str = Settings.model_fields["name"].default
SLOWEST_FIRST: tuple[ServiceName, ...] = ("kafka", "postgres", "redis")


def say_nothing(_: str) -> None:
    """Ignores a line of a report."""


class Stack:
    """The services whose data are under `root`.

    Several objects and processes may use one `root`: a lock lets one command run at a time. `report` is
    called with a line per action. With `secure`, each server has TLS and a login; a stack that was made so
    stays so. `cache` is the folder of Kafka's jars. `name` is the name of the installation: the user of a
    secure Redis may use only keys that begin with this name and a hyphen.
    """

    def __init__(
        self,
        root: Path,
        *,
        report: Report = say_nothing,
        cache: Path | None = None,
        secure: bool = False,
        name: str = DEFAULT_NAME,
    ) -> None:
        self.root = root.absolute()
        self._tls = secure_folder(self.root)
        self.is_secure = secure or self._tls.is_dir()
        self._report = report
        self._state = StackState(self.root)
        jars = cache_folder(os.environ) if cache is None else cache
        self._secure_redis = SecureRedisServer(self._tls, name) if self.is_secure else None
        services: tuple[Service, ...] = (
            SecureKafkaBroker(jars, self._tls) if self.is_secure else KafkaBroker(jars),
            SecurePostgresServer(self._tls) if self.is_secure else PostgresServer(),
            self._secure_redis or RedisServer(),
        )
        self._runners = {s.name: Runner(s, self.root / s.name, self._state, report) for s in services}

    def up(self) -> StackUrls:
        """Starts the services that do not run, and waits until all three answer. Idempotent.

        Raises StackError if a program must be installed, or if a service does not start, with the end of its
        log.
        """
        with self._state.locked(self._report):
            self._make_secure_files()
            for name in SLOWEST_FIRST:
                self._runners[name].begin()
            for name in SLOWEST_FIRST:
                self._finish(name)
        return self.urls()

    def start(self, name: ServiceName, *, wipe: bool = False) -> None:
        """Starts one service and waits until it answers. With `wipe`, deletes its data first. Idempotent."""
        with self._state.locked(self._report):
            if wipe:
                self._runners[name].end("kill")
                self._runners[name].discard_data()
            self._make_secure_files()
            self._runners[name].begin()
            self._finish(name)

    def _make_secure_files(self) -> None:
        if not self.is_secure or self._tls.is_dir():
            return
        if any(runner.place().data.is_dir() for runner in self._runners.values()):
            raise StackError("this stack was started without --secure; use another folder, or wipe it first")
        self._report("making the certificates and passwords of the stack")
        make_secure_files(self._tls)

    def _finish(self, name: ServiceName) -> None:
        self._runners[name].finish()
        if name == "redis" and self._secure_redis is not None:
            self._secure_redis.renew_users(self._runners[name].place())

    def stop(self, name: ServiceName, *, signal: StopSignal = "term") -> None:
        """Ends one service and waits for its end. Its data and ports are kept. Idempotent."""
        with self._state.locked(self._report):
            self._runners[name].end(signal)

    def down(self, *, wipe: bool = False) -> None:
        """Ends only the processes that this stack started. With `wipe`, deletes their data."""
        if not self.root.exists():
            return
        with self._state.locked(self._report):
            for name in SLOWEST_FIRST:
                self._runners[name].end("term")
            if wipe:
                for name in SLOWEST_FIRST:
                    self._runners[name].discard_data()
                shutil.rmtree(self.root)

    def status(self) -> list[ServiceStatus]:
        """Returns the status of each service. Changes nothing and takes no lock."""
        return [self._runners[name].status() for name in SLOWEST_FIRST]

    def urls(self) -> StackUrls:
        """Returns the addresses of the services that run, or of their last run.

        Raises StackError before the first `up`.
        """
        access = self.kafka_access()
        return StackUrls(self.database_url(), self.redis_url(), access.bootstrap_servers, access.security)

    def environ(self) -> dict[str, str]:
        """Returns the variables that `sluice stack up` printed last; empty before the first start."""
        try:
            return self.urls().environ()
        except StackError:
            return {}

    def database_url(self, database: str = DATABASE) -> str:
        """Returns the URL of a database of the stack's Postgres. Raises StackError before its first start."""
        port = self._port("postgres")
        if not self.is_secure:
            return f"postgresql+psycopg2://{SUPERUSER}@{LOOPBACK}:{port}/{database}"
        return secure_database_url(self._tls, port, database)

    def redis_url(self, number: int = 0) -> str:
        """Returns the URL of a database of the stack's Redis. Raises StackError before its first start."""
        port = self._port("redis")
        return (
            secure_redis_url(self._tls, port, number)
            if self.is_secure
            else f"redis://{LOOPBACK}:{port}/{number}"
        )

    def redis_admin_url(self, number: int = 0) -> str:
        """Returns the URL with which an administrator, who may do everything, reaches the stack's Redis."""
        if not self.is_secure:
            return self.redis_url(number)
        return secure_redis_url(self._tls, self._port("redis"), number, user=ADMINISTRATOR)

    def kafka_bootstrap_servers(self) -> str:
        """Returns the address of the stack's broker. Raises StackError before its first start."""
        return f"{LOOPBACK}:{self._port('kafka')}"

    def kafka_access(self) -> KafkaAccess:
        """Returns how Sluice's processes reach the broker. Raises StackError before its first start."""
        servers = self.kafka_bootstrap_servers()
        return KafkaAccess(servers, user_security(self._tls) if self.is_secure else PLAINTEXT)

    def kafka_admin_access(self) -> KafkaAccess:
        """Returns how an administrator, who gives rights, reaches the secure broker."""
        ports = self._runners["kafka"].place().ports
        return KafkaAccess(f"{LOOPBACK}:{ports['certificates']}", admin_security(self._tls))

    def data_dir(self, name: ServiceName) -> Path:
        """Returns the data folder. Replace it only while the service is stopped; `start` sets its owner."""
        return self._runners[name].place().data

    def _port(self, name: ServiceName) -> int:
        ports = self._runners[name].place().ports
        if not ports:
            raise StackError(f"{name} was never started here: run `sluice stack up`")
        return ports[self._runners[name].service.port_names[0]]
