"""Declares that this database is the original. Bridges of its copies then stop."""

from contextlib import closing
from typing import NamedTuple

from sluice.admin.documents import as_json
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.delivery.claims import raise_rank
from sluice.runtime.settings import Settings
from sluice.tasks.installation.claim_reader import ClaimReader
from sluice.tasks.installation.opening import open_installation

QUESTION = (
    "Is this database the original? Bridges of every other database with the same id will stop, and"
    " cannot start again while a bridge of this database runs."
)


class RaisedRank(NamedTuple):
    """The rank of this database's claims."""

    before: int
    after: int
    foreign_writers: int
    """Bridges of other databases whose claims were found."""


def make_original(settings: Settings, decision: Decision) -> RaisedRank:
    """Raises the rank of this database above every rank found in Redis and Kafka, with an audit row.

    Kafka is left out if it does not answer. Raises InstallationRefused, RedisError and psycopg2.Error.
    """
    installation = open_installation(settings).installation
    with closing(ClaimReader(settings, installation)) as reader:
        look = reader.look()
        with closing(reader.open_session()) as session, session.transaction():
            foreign = [claim for claim in look.claims if claim.claim not in look.known.claims]
            before, after = raise_rank(session, (claim.rank for claim in foreign))
            details = as_json({"rank_before": before, "rank": after})
            insert_audits(session, decision, [(installation.group, details)])
    return RaisedRank(before, after, len({claim.writer for claim in foreign}))
