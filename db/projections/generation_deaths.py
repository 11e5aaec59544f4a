"""`generation_deaths`: events that live applied and a generation could not."""

from collections.abc import Sequence
from typing import NamedTuple

from sluice.db.connection import Session, Statement
from sluice.db.values import bare_array, text_array

INSERT_DEATHS = Statement(
    "insert_generation_deaths",
    """
    INSERT INTO sluice.generation_deaths
        (projection, generation, topic, partition, "offset", key, error_class, error_text)
    SELECT $1, $2, * FROM unnest($3, $4, $5, $6, $7, $8)
    ON CONFLICT DO NOTHING
    """,
    ("text", "int", "text[]", "int[]", "bigint[]", "text[]", "text[]", "text[]"),
)


class GenerationDeath(NamedTuple):
    """An event that live applied and a generation could not."""

    topic: str
    partition: int
    offset: int
    key: str | None
    error_class: str
    error_text: str


def insert_deaths(
    session: Session, projection: str, generation: int, deaths: Sequence[GenerationDeath]
) -> None:
    """Remembers them. May run twice."""
    if deaths:
        topics, partitions, offsets, keys, classes, texts = zip(*deaths, strict=True)
        session.run(
            INSERT_DEATHS,
            projection,
            generation,
            text_array(topics),
            bare_array(partitions),
            bare_array(offsets),
            text_array(keys),
            text_array(classes),
            text_array(texts),
        )


READ_DEATHS = Statement(
    "read_generation_deaths",
    """
    SELECT topic, partition, "offset", key, error_class, error_text FROM sluice.generation_deaths
    WHERE projection = $1 AND generation = $2 ORDER BY died_at, topic, partition, "offset" LIMIT $3
    """,
    ("text", "int", "int"),
)
COUNT_DEATHS = Statement(
    "count_generation_deaths",
    "SELECT count(*) FROM sluice.generation_deaths WHERE projection = $1 AND generation = $2",
    ("text", "int"),
)


def read_deaths(
    session: Session, projection: str, generation: int, limit: int
) -> tuple[int, list[GenerationDeath]]:
    """How many there are, and the first of them."""
    ((count,),) = session.run(COUNT_DEATHS, projection, generation)
    return count, [GenerationDeath(*row) for row in session.run(READ_DEATHS, projection, generation, limit)]
