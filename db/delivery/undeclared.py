"""`undeclared`: topics and effects whose work waits because no running worker declares them.

A row has the waiting time. A topic waits only while a running bridge reads it, so a topic that was removed
from the code of all processes does not wait. Time in which no worker runs does not count as waiting time.
"""

from typing import NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.delivery.living_processes import IS_ALIVE, SERVED_EFFECTS
from sluice.db.records import Declaration
from sluice.runtime.terminal_text import counted

HALTED_SECONDS = 600
"""After this waiting time, a topic or effect is shown as halted.

It is longer than a rolling deployment takes.
"""
MAX_STEP_SECONDS = 15
"""The most seconds that one call of `note_undeclared` adds, so that time without a worker does not count."""


class Undeclared(NamedTuple):
    """A topic or an effect that no running worker declares."""

    kind: Declaration
    name: str
    waited_seconds: float

    @property
    def is_halted(self) -> bool:
        """Returns True if the work has waited for HALTED_SECONDS or longer."""
        return self.waited_seconds >= HALTED_SECONDS

    @property
    def problem(self) -> str:
        """Returns one sentence about the waiting work."""
        whole = round(self.waited_seconds / 60)
        minutes = f"for {counted(whole, 'minute')}"
        if self.kind is Declaration.TOPIC:
            name, waiting = f"Topic {self.name}", "records"
        else:
            name, waiting = f"Effect {self.name}", "calls"
        return f"{name} is halted: no running worker has declared it {minutes}; its {waiting} wait."

    @property
    def advice(self) -> str:
        """Returns one sentence with the advice."""
        if self.kind is Declaration.TOPIC:
            return (
                "Start workers whose SLUICE_HANDLERS declare the topic, or also remove the topic from the"
                " code of the bridges."
            )
        return (
            "Start workers for calls whose SLUICE_HANDLERS declare the effect, or settle each of its calls"
            ' with `sluice effects settle KEY --as failed --reason "…"`.'
        )


# The effects with a pending call. The recursion takes one index step per effect, because an effect may have
# millions of pending calls.
_PENDING = """
    WITH RECURSIVE pending AS (
        (SELECT effect FROM sluice.executed_side_effects WHERE state = 'pending' ORDER BY effect LIMIT 1)
        UNION ALL
        SELECT (SELECT e.effect FROM sluice.executed_side_effects e
                WHERE e.state = 'pending' AND e.effect > p.effect ORDER BY e.effect LIMIT 1)
        FROM pending p WHERE p.effect IS NOT NULL
    )
    SELECT effect FROM pending WHERE effect IS NOT NULL
    UNION
    SELECT effect FROM sluice.executed_side_effects WHERE state = 'running' AND claimed_until < now()
"""
_READ_TOPICS = f"""
    SELECT DISTINCT r.topic
    FROM sluice.processes b, jsonb_object_keys(b.topics) AS r (topic)
    WHERE b.kind = 'bridge' AND b.{IS_ALIVE}
"""
# A worker that declares the topic but serves none of the topic's queues does not count.
_IS_SERVED = f"""
    EXISTS (
        SELECT FROM sluice.processes w
        WHERE w.kind = 'worker' AND w.{IS_ALIVE} AND jsonb_exists(w.topics, t.topic)
          AND (w.queues IS NULL OR EXISTS (
              SELECT FROM sluice.queues q WHERE q.entity = t.entity AND q.queue = ANY (w.queues)
          ))
    )
"""

NOTE_UNDECLARED = Statement(
    "note_undeclared",
    f"""
    WITH missing AS MATERIALIZED (
        SELECT 'topic' AS kind, t.topic AS name FROM sluice.topics t
        WHERE t.topic IN ({_READ_TOPICS}) AND NOT {_IS_SERVED}
        UNION ALL
        SELECT 'effect', p.effect FROM ({_PENDING}) p WHERE p.effect NOT IN ({SERVED_EFFECTS})
    ), over AS (
        DELETE FROM sluice.undeclared u
        WHERE (u.kind, u.name) NOT IN (SELECT kind, name FROM missing)
          -- While no bridge runs, it is unknown if a topic is read. So topics that wait continue to wait.
          AND (u.kind = 'effect'
               OR EXISTS (SELECT FROM sluice.processes b WHERE b.kind = 'bridge' AND b.{IS_ALIVE})
               OR EXISTS (SELECT FROM sluice.topics t WHERE t.topic = u.name AND {_IS_SERVED}))
    )
    INSERT INTO sluice.undeclared AS u (kind, name)
    SELECT kind, name FROM missing
    ON CONFLICT (kind, name) DO UPDATE SET
        waited_seconds = u.waited_seconds
            + greatest(0, least({MAX_STEP_SECONDS}, extract(epoch FROM now() - u.observed_at))),
        observed_at = now()
    """,
    ("text",),
)


def note_undeclared(session: Session, calls_queue: str) -> None:
    """Adds the time since the last call to undeclared topics and effects. Deletes rows of declared ones.

    A worker calls this every few seconds. Therefore only time in which a worker runs is added.
    """
    session.run(NOTE_UNDECLARED, calls_queue)


READ_UNDECLARED = Statement(
    "read_undeclared", "SELECT kind, name, waited_seconds FROM sluice.undeclared ORDER BY kind, name"
)


def read_undeclared(session: Session) -> list[Undeclared]:
    """Returns all undeclared topics and effects, halted or not."""
    rows = session.run(READ_UNDECLARED)
    return [Undeclared(Declaration(kind), name, waited) for kind, name, waited in rows]


def read_halted(session: Session) -> list[Undeclared]:
    """Returns topics and effects that no running worker has declared for HALTED_SECONDS."""
    return [one for one in read_undeclared(session) if one.is_halted]
