"""Events that workers applied and that a generation could not apply: the generation's open letters."""

from typing import NamedTuple

from sluice.db.connection import Session, Statement
from sluice.runtime.place import Place


def deaths_queue(projection: str, generation: int, place: Place) -> str:
    """Returns the queue name under which deaths of processes in a rebuild are counted."""
    return f"rebuild {projection} {generation} {place[0]}[{place[1]}]"


FORGET_GENERATION_DEATHS = Statement(
    "forget_generation_deaths",
    "DELETE FROM sluice.handler_deaths WHERE starts_with(queue, $1)",
    ("text",),
)


def forget_process_deaths(session: Session, projection: str, generation: int) -> None:
    """Deletes the counted deaths of processes in rebuilds of a dropped generation."""
    session.run(FORGET_GENERATION_DEATHS, f"rebuild {projection} {generation} ")


class GenerationDeath(NamedTuple):
    """An event that a worker applied, but that is dead, in conflict or waiting in a generation."""

    topic: str
    partition: int
    offset: int
    key: str | None
    error_class: str
    error_text: str


_OPEN = """(
        SELECT topic, partition, "offset", entity_key AS key, error_class, error_text, created_at AS at
        FROM sluice.projection_letters
        WHERE projection = $1 AND generation = $2 AND state IN ('dead', 'waiting')
        UNION ALL
        -- Rows that older workers wrote, before generations had letters.
        SELECT topic, partition, "offset", key, error_class, error_text, died_at
        FROM sluice.generation_deaths WHERE projection = $1 AND generation = $2
    ) o"""
READ_DEATHS = Statement(
    "read_generation_deaths",
    f"""
    SELECT topic, partition, "offset", key, error_class, error_text FROM {_OPEN}
    ORDER BY at, topic, partition, "offset" LIMIT $3
    """,
    ("text", "int", "int"),
)
COUNT_DEATHS = Statement("count_generation_deaths", f"SELECT count(*) FROM {_OPEN}", ("text", "int"))


def read_deaths(
    session: Session, projection: str, generation: int, limit: int
) -> tuple[int, list[GenerationDeath]]:
    """Returns the number of these events, and the oldest of them."""
    ((count,),) = session.run(COUNT_DEATHS, projection, generation)
    return count, [GenerationDeath(*row) for row in session.run(READ_DEATHS, projection, generation, limit)]
