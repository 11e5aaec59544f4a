"""Publishes a task for each due call. Postgres stores what is due; a lost message is published again."""

from collections.abc import Callable

from sluice.db.connection import Session
from sluice.db.sending import calls
from sluice.tasks.api import EffectDeclaration
from sluice.tasks.effects.executor import holding_effects
from sluice.tasks.fold.registry import Registry

MAX_WAITING = 500  # messages on the list: a provider that hangs must not fill Redis
AGAIN_AFTER_SECONDS = 30.0  # a message may be lost; a call that is told of twice is made once


class Dispatcher:
    """`publish` gets an effect key and its declaration; `count_waiting` tells the length of the list."""

    def __init__(
        self,
        session: Session,
        registry: Registry,
        *,
        publish: Callable[[str, EffectDeclaration], None],
        count_waiting: Callable[[], int],
    ) -> None:
        self._session = session
        self._declarations = {name: entry.declaration for name, entry in registry.effects.items()}
        self._holding = holding_effects(registry)
        self._publish = publish
        self._count_waiting = count_waiting

    def run_once(self) -> int:
        """Dispatches what is due and may go; how many calls. May run any number of times.

        Raises what the broker raises: what was not published is dispatched again after a while.
        """
        if not self._declarations:
            return 0
        due = calls.dispatch_calls(
            self._session,
            sorted(self._declarations),
            self._holding,
            again_after_seconds=AGAIN_AFTER_SECONDS,
            limit=MAX_WAITING - self._count_waiting(),
        )
        for effect_key, effect in due:
            self._publish(effect_key, self._declarations[effect])
        return len(due)
