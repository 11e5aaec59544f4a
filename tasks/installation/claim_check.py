"""Refuses to start a process while another copy of its database is in use."""

import time
from contextlib import closing
from dataclasses import dataclass, replace

import structlog
from redis import RedisError

from sluice.db.errors import allows_waiting_at_start
from sluice.runtime.backoff import Backoff
from sluice.runtime.health import touch_health
from sluice.runtime.installation import Installation, InstallationRefused
from sluice.runtime.log_pace import LogPace
from sluice.runtime.outages import Server
from sluice.runtime.redis_failures import describe_failure, find_advice
from sluice.runtime.repeat_filter import AWAY
from sluice.runtime.settings import Settings
from sluice.tasks.installation.claim import Verdict, Watch, begin_watch, judge_claims
from sluice.tasks.installation.claim_reader import ClaimReader, Look

log = structlog.get_logger("sluice.installation")

WATCH_SECONDS = 30.0
"""Seconds for which foreign claims are watched: three times the period in which a bridge renews its claim."""
POLL_SECONDS = 0.5

CLAIMED = (
    "another database works as this installation: it writes claims that this database does not hold,"
    " so one of the two is a physical copy (a base backup or a snapshot of disks)."
    " If this database is the copy, run `sluice init --new-installation`: this database then gets"
    " a new id."
    " If the original is lost, end the processes that still use the original; after a dump and restore"
    " or `pg_upgrade`, run `sluice init --moved`."
    " If this database is the original and a copy was started while the original was down, run"
    " `sluice init --original`: the bridges of the copy then stop"
)


def refuse_if_claimed(settings: Settings, installation: Installation) -> None:
    """Returns as soon as it is certain that no other database works as this installation.

    Call it before the process joins a group or writes anything. Waits while Redis or Postgres does not
    answer. Raises InstallationRefused if there is such a database, or if Redis refuses this process
    permanently. Raises errors of Postgres other than an outage.
    """
    with closing(ClaimReader(settings, installation)) as reader:
        check = ClaimCheck(reader, WATCH_SECONDS)
        while not check.is_done(time.monotonic()):
            touch_health(settings.health_file)
            time.sleep(POLL_SECONDS)


@dataclass
class ClaimCheck:
    """The check of one starting process."""

    reader: ClaimReader
    watch_seconds: float
    watch: Watch | None = None
    began: float | None = None
    with_kafka: bool = True

    def __post_init__(self) -> None:
        self._backoff = Backoff()
        self._pace = LogPace()

    def is_done(self, now: float) -> bool:
        """Reads the claims one time. Returns True if the process may start. Raises InstallationRefused."""
        if not self._backoff.allows(now):
            return False
        try:
            look = self.reader.look(with_kafka=self.with_kafka)
        except Exception as error:
            self._note_failure(error, now)
            return False
        self._backoff.note_success()
        return self._judge(look, now)

    def _note_failure(self, error: Exception, now: float) -> None:
        """Logs an outage, at most every minute. Raises an error that waiting cannot resolve."""
        server: Server = "Postgres"
        text = str(error).strip()
        if isinstance(error, RedisError):
            server, text = "Redis", describe_failure(error, self.reader.redis_url)
            if find_advice(error) is not None:
                raise InstallationRefused(f"Redis: {text}") from error
        elif not allows_waiting_at_start(error):
            raise error
        # Begins again, because the other database may have been unable to renew its claims, too.
        self.began = None
        self._backoff.note_failure(now)
        if self._pace.allows(server):
            log.warning(f"waiting for {server}", error=text, **{AWAY: server})

    def _judge(self, look: Look, now: float) -> bool:
        # Kafka is not read again after it failed. If it answered later, its old claims would look new.
        self.with_kafka = look.kafka_answered
        self.began = now if self.began is None else self.began
        if self.watch is None:
            self.watch = begin_watch(look.foreign, look.unproven, watch_seconds=self.watch_seconds)
            if self.watch is not None:
                log.warning(
                    "claims found that this server did not write; waiting to see if they are renewed",
                    claims=len(look.foreign | look.unproven),
                    seconds=self.watch.limit_seconds,
                )
            return self.watch is None
        self.watch = replace(self.watch, watched_seconds=now - self.began)
        verdict = judge_claims(look.foreign, self.watch, proven=bool(look.known.witnessed))
        if verdict is Verdict.REFUSE:
            raise InstallationRefused(CLAIMED)
        if verdict is Verdict.TAKE_OVER:
            log.warning("no claim of another server was renewed; this process starts")
        return verdict is Verdict.TAKE_OVER
