"""`python -m sluice.bridge`: runs one bridge until SIGTERM."""

import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from socket import gethostname
from types import FrameType

import psycopg2
import structlog

from sluice.bridge.bridge_metrics import BridgeMetrics
from sluice.bridge.claim_writer import OUTRANKED, ClaimWriter
from sluice.bridge.inflight import Inflight
from sluice.bridge.log_watch import LogWatch
from sluice.bridge.login_watch import LoginWatch
from sluice.bridge.loop import Bridge
from sluice.bridge.progress_store import PostgresProgressStore
from sluice.bridge.publisher import RedisPublisher
from sluice.bridge.topic_stops import BridgeStopped
from sluice.db.delivery.progress import ProgressSession
from sluice.db.errors import describe_refusal
from sluice.db.records import ProcessKind
from sluice.kafka_io.access_files import AccessFiles
from sluice.kafka_io.consumer import BrokersAway, Consumer
from sluice.kafka_io.login_check import find_group_refusal, find_refusal
from sluice.runtime.exposition import MetricsEndpoint
from sluice.runtime.fault_points import faults
from sluice.runtime.gc_tuning import tune_gc
from sluice.runtime.health import TOUCH_EVERY_SECONDS, process_health, touch_health
from sluice.runtime.installation import Installation, InstallationRefused
from sluice.runtime.logs import configure_logs
from sluice.runtime.service_urls import shown_addresses
from sluice.runtime.settings import Settings, SettingsError, read_settings
from sluice.runtime.watchdog import Watchdog
from sluice.tasks.fold.registry import HandlersRefused, Registry, collect_handlers
from sluice.tasks.installation.joining import join_installation
from sluice.tasks.task_sender import open_sender

LOUD_STOP_EXIT_CODE = 3
# Longer than all time-outs of a turn together. Also longer than MAX_POLL_INTERVAL_MS, after which the group
# excludes a bridge that does not poll.
TURN_SECONDS = 120.0
STOP_SECONDS = 25.0  # shorter than 30 seconds, after which most supervisors kill a process
REFUSED_EXIT_CODE = 2
MIB = 1024 * 1024

log = structlog.get_logger("sluice.bridge")


def main() -> int:
    """Runs the bridge.

    Returns its exit code: 0 after SIGTERM, 2 if the bridge cannot start, 3 if no topic is left that it may
    read.
    """
    try:
        settings = read_settings()
        faults.arm(settings.faults)
        registry = collect_handlers(settings.handlers)
        metrics = BridgeMetrics()
        endpoint = MetricsEndpoint(settings)
        endpoint.open(metrics.collectors())
    except (SettingsError, HandlersRefused, ValueError) as error:
        sys.stderr.write(f"bridge: {error}\n")
        return REFUSED_EXIT_CODE
    configure_logs(
        log_format=settings.log_format,
        level=settings.log_level,
        process="bridge",
        addresses=shown_addresses(settings),
    )
    stops: list[int] = []

    def note_stop(number: int, _: FrameType | None) -> None:
        stops.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, note_stop)
    if (refusal := _find_refusal(settings)) is not None:
        log.error("bridge refused", reason=refusal)
        return REFUSED_EXIT_CODE
    try:
        membership = join_installation(settings, registry, kind=ProcessKind.BRIDGE, node=gethostname())
    except InstallationRefused as error:
        log.error("bridge refused", reason=str(error))
        return REFUSED_EXIT_CODE
    installation = membership.installation
    claims = ClaimWriter(settings, installation)
    store = PostgresProgressStore(
        ProgressSession(settings.database_url.get_secret_value(), application_name="sluice bridge"),
        installation.group,
    )
    publisher = RedisPublisher(open_sender(settings, installation, membership.ring))
    watch = LogWatch(
        ProgressSession(settings.database_url.get_secret_value(), application_name="sluice bridge logs"),
        settings.kafka_access,
        settings.share,
        registry.topics,
    )
    files = AccessFiles(settings.kafka_access)
    login = (
        LoginWatch(partial(_find_refusal, settings), have_files_changed=files.have_changed)
        if settings.kafka_access.is_secured
        else None
    )
    bridge = Bridge(
        make_consumer=_consumer_maker(settings, registry, installation, claims, files),
        store=store,
        publisher=publisher,
        topics=registry.topics,
        inflight=Inflight(max_bytes=settings.bridge_memory_mib * MIB, max_span=settings.bridge_span_records),
        metrics=metrics,
        watch=watch,
        reader=membership.presence.process,
        share=settings.share,
        login=login,
    )
    process_health.servers.states = {"Kafka": lambda: bridge.is_member and not (login and login.refusal)}
    threads: list[ClaimWriter | LogWatch | LoginWatch] = [claims, watch, *([login] if login else [])]
    watchdog = Watchdog(turn_seconds=TURN_SECONDS, stop_seconds=STOP_SECONDS)
    touch = _toucher(settings.health_file)

    def note_turn(is_healthy: bool) -> None:
        watchdog.turned()
        touch(is_healthy)
        process_health.has_joined = bridge.is_member

    try:
        log.info("bridge started", topics=sorted(registry.topics))
        tune_gc()
        watchdog.start()
        for thread in threads:
            thread.start()
        bridge.run(should_stop=lambda: bool(stops) or claims.outranked, turned=note_turn)
    except BridgeStopped as stop:
        log.error("bridge stopped; no records were skipped", reason=str(stop))
        return LOUD_STOP_EXIT_CODE
    except InstallationRefused as error:
        log.error("bridge refused", reason=str(error))
        return REFUSED_EXIT_CODE
    except psycopg2.Error as error:
        # During an outage the bridge waits, so this error means that the database is the wrong one for this
        # bridge.
        log.error("bridge refused", reason=describe_refusal(error))
        return REFUSED_EXIT_CODE
    finally:
        for thread in threads:
            thread.stop()
        membership.leave()
        store.close()
        publisher.close()
        endpoint.close()
        watchdog.stop()
    if claims.outranked:
        log.error("bridge stopped; no records were skipped", reason=OUTRANKED)
        return LOUD_STOP_EXIT_CODE
    log.info("bridge ended")
    return 0


def _find_refusal(settings: Settings) -> str | None:
    """Returns why the brokers refuse this bridge; None if they accept it or are away.

    While the bridge runs, it retries instead, because an operator may mend the cause.
    """
    try:
        return find_refusal(settings.kafka_access)
    except SettingsError as error:
        return str(error)


def _consumer_maker(
    settings: Settings,
    registry: Registry,
    installation: Installation,
    claims: ClaimWriter,
    files: AccessFiles,
) -> Callable[[str], Consumer]:
    """Returns a function that makes consumers.

    Its first call raises InstallationRefused if this user has no right to the group, or if the share does not
    divide the partitions of a topic. Later, the bridge waits for the right. It stops such a topic, and reads
    the other topics.
    """
    is_checked = False

    def make_consumer(name: str) -> Consumer:
        nonlocal is_checked
        if not is_checked and (refusal := find_group_refusal(settings.kafka_access, installation.group)):
            raise InstallationRefused(refusal)
        files.note()
        try:
            made = _make_consumer(settings, registry, installation.group, name, claims)
        except SettingsError as error:
            if not is_checked:
                raise InstallationRefused(str(error)) from error
            # The files of the login may be about to be replaced.
            raise BrokersAway(str(error)) from error
        except BrokersAway as error:
            refusal = _find_refusal(settings)
            raise BrokersAway(refusal or str(error)) from error
        topics = sorted(made.topics().items())
        flaws = [settings.share.flaw(topic, known.partitions) for topic, known in topics]
        if not is_checked and any(flaws):
            made.close()
            raise InstallationRefused("; ".join(str(flaw) for flaw in flaws if flaw))
        is_checked = True
        return made

    return make_consumer


def _make_consumer(
    settings: Settings, registry: Registry, group: str, name: str, claims: ClaimWriter
) -> Consumer:
    # Only the chosen client is imported, because the import of a client takes a tenth of the start time.
    make: Callable[..., Consumer]
    if settings.kafka_client == "confluent":
        from sluice.kafka_io.confluent_consumer import ConfluentConsumer as make
    else:
        from sluice.kafka_io.kafka_python_consumer import KafkaPythonConsumer as make
    return make(
        settings.kafka_access,
        group=group,
        # The name makes the bridge a static member: after a restart it gets its partitions at once, without a
        # rebalance.
        instance=f"{group}-{name}",
        topics=sorted(registry.topics),
        share=settings.share,
        commit_metadata=lambda: claims.text,
        max_record_bytes=settings.max_record_bytes,
    )


def _toucher(health_file: str) -> Callable[[bool], None]:
    touched_at = float("-inf")

    def turned(is_healthy: bool) -> None:
        nonlocal touched_at
        now = time.monotonic()
        if is_healthy and now - touched_at >= TOUCH_EVERY_SECONDS:
            touched_at = now
            touch_health(health_file)

    return turned


if __name__ == "__main__":
    sys.exit(main())
