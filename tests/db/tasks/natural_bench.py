"""A bench of the application with dedup="natural", and records of its topic."""

from typing import Any

from sluice.admin.reshard import Resharded, reshard_entity
from sluice.db.admin.audit import Decision
from sluice.db.connection import Session
from sluice.db.migrations.migrate import create_projections
from sluice.kafka_io.record_types import Record
from tests.db.tasks import projecting
from tests.db.tasks.applying import TOPIC, TOPIC_ID, made
from tests.db.tasks.natural_app import metadata, registry
from tests.harness.raw_sql import make_engine

DECISION = Decision("tester", "reshard", "a test")


class Bench(projecting.Bench):
    """A bench of this application."""

    def state(self) -> tuple[list[tuple[Any, ...]], ...]:
        """Returns all rows, with their versions, and all tombstones."""
        return (
            self.look("SELECT * FROM public.things ORDER BY thing_id"),
            self.look("SELECT * FROM public.kept ORDER BY thing_id"),
            self.look("SELECT * FROM public.totals ORDER BY thing_id"),
            self.look("SELECT table_name, key, version FROM sluice.tombstones ORDER BY 1, 2"),
        )

    def identities(self) -> list[tuple[Any, ...]]:
        return self.look("SELECT * FROM sluice.processed_events")

    def letters(self) -> list[tuple[Any, ...]]:
        return self.look('SELECT "offset", outcome, state FROM sluice.dead_letters ORDER BY id')

    def totals_of(self, generation: int) -> dict[str, int]:
        return dict(self.look(f"SELECT thing_id, amount FROM public.totals_g{generation}"))

    def reroute(self) -> None:
        """Re-routes by force, so that every record is read again: the watermark is still 0."""
        assert isinstance(
            reshard_entity(self.session, "thing", len(self.queues()) + 1, DECISION, force=True), Resharded
        )


def create(database_url: str) -> None:
    engine = make_engine(database_url, connect_args={"options": "-c search_path=public"})
    metadata.create_all(engine)
    engine.dispose()
    code = registry()
    create_projections(database_url, code.projection_tables, code.revisions)
    session = Session(database_url, application_name="test")
    session.command(
        "INSERT INTO sluice.entities (entity, shards) VALUES ('thing', 1);"
        f"INSERT INTO sluice.topics VALUES ('{TOPIC}', '{TOPIC_ID}', 'thing', 'natural');"
        "INSERT INTO sluice.queues (queue, entity) VALUES ('thing.0', 'thing');"
        f"INSERT INTO sluice.partition_watermarks VALUES ('{TOPIC}', 0, 1, 0);"
        f"INSERT INTO sluice.dedup_starts VALUES ('{TOPIC}', '{TOPIC_ID}', 0, 0, 'natural')"
    )
    session.close()


def put(offset: int, key: str = "a", amount: int = 1, *, version: int | None = None, **more: Any) -> Record:
    return made(
        offset, "thing.set", key, amount=amount, version=offset if version is None else version, **more
    )


def named(offset: int, key: str, name: str, version: int) -> Record:
    return made(offset, "thing.named", key, name=name, version=version)


def deleted(offset: int, key: str, version: int) -> Record:
    return made(offset, "thing.deleted", key, version=version)


def again(record: Record, offset: int) -> Record:
    """Returns the record as a producer sends it again."""
    return record._replace(offset=offset)
