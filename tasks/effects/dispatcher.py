"""Publishes a task for each due call. Postgres stores the due calls, so a lost message is published again."""

import time
from collections.abc import Callable

import structlog

from sluice.db.connection import Session
from sluice.db.delivery.living_processes import read_served_effects
from sluice.db.sending import dispatching
from sluice.runtime.celery_options import EFFECTS_QUEUE
from sluice.runtime.log_pace import LogPace
from sluice.tasks.effects.call_states import AGAIN_AFTER_SECONDS
from sluice.tasks.effects.executor import holding_effects
from sluice.tasks.fold.registry import Registry
from sluice.tasks.installation import formats

log = structlog.get_logger("sluice.effects")

MAX_WAITING = 500  # messages on the list; a provider that hangs must not fill Redis
SERVED_SECONDS = 1.0  # maximum age of the list of effects that workers declare
LOOK_SECONDS = 30.0
"""The time between two looks at the due calls of any age.

Other looks begin at the oldest pending call of the look before, so that they do not pass the index entries of
all calls that ended since an old snapshot began.
"""


class Dispatcher:
    """Dispatches due calls.

    `publish` takes an effect key. `count_waiting` returns the length of the Celery list.

    The dispatcher publishes calls of all effects that active workers declare. If this process does not
    declare an effect, the dispatcher cannot read if the effect holds back later calls. So the executor checks
    again.
    """

    def __init__(
        self,
        session: Session,
        registry: Registry,
        *,
        publish: Callable[[str], None],
        count_waiting: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._holding = holding_effects(registry)
        self._publish = publish
        self._count_waiting = count_waiting
        self._clock = clock
        self._served: list[str] = []
        self._read_at = self._looked_at = float("-inf")
        self._due_since = dispatching.EVER
        self._pace = LogPace(clock=clock)

    def run_once(self) -> int:
        """Dispatches calls that are due and not held back. Returns their number. Idempotent.

        Raises errors of the broker. Calls that were not published are dispatched again later.
        """
        self._refresh_served()
        if not self._served:
            return 0
        due = dispatching.dispatch_calls(
            self._session,
            self._served,
            self._holding,
            again_after_seconds=AGAIN_AFTER_SECONDS,
            limit=MAX_WAITING - self._count_waiting(),
            newest_format=formats.NEWEST_FORMAT,
            due_since=self._due_since,
        )
        for effect_key, _ in due:
            self._publish(effect_key)
        return len(due)

    def _refresh_served(self) -> None:
        now = self._clock()
        if now - self._read_at < SERVED_SECONDS:
            return
        served = read_served_effects(self._session, EFFECTS_QUEUE)
        self._read_at = now
        if served != self._served or now - self._looked_at >= LOOK_SECONDS:
            self._looked_at, self._due_since = now, dispatching.EVER
        self._served = served
        self._due_since = dispatching.read_due_since(self._session, served, self._due_since)
        newer = dispatching.count_newer_calls(self._session, formats.NEWEST_FORMAT)
        if newer and self._pace.allows("newer calls"):
            log.warning(
                "calls of a newer format left to newer workers", calls=newer, reads=formats.NEWEST_FORMAT
            )
