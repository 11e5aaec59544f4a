"""Stores the deaths that a supervisor reports. A death is the end of a worker's process inside a handler."""

import psycopg2
import structlog

from sluice.db.apply.handler_deaths import note_death
from sluice.db.connection import Session
from sluice.runtime.log_pace import LogPace
from sluice.runtime.place import EventPlace
from sluice.worker.supervision import Death

log = structlog.get_logger("sluice.supervisor")


class DeathNotes:
    """Writes deaths to Postgres. Each death is written over a new connection."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._pace = LogPace()

    def store(self, death: Death) -> bool:
        """Stores a death. Returns False if Postgres did not answer or refused the statement."""
        mark = death.mark
        place = EventPlace(mark.topic, mark.topic_id, mark.partition, mark.offset)
        session = Session(self._database_url, application_name="sluice supervisor")
        try:
            note_death(session, mark.queue, place, timed_out=death.timed_out, how=death.how)
        except psycopg2.Error as error:
            if self._pace.allows("store"):
                log.warning("death not stored; retrying", error=error)
            return False
        finally:
            session.close()
        return True
