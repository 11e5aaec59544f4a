"""`sluice init`: the command around `admin/init.py`."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from sluice.admin.connection import read_environment
from sluice.admin.init import DEFAULT_PARTITIONS, Initialised, initialise
from sluice.cli.printing import AsJson


def init(
    partitions: Annotated[
        int, typer.Option(min=1, help="Of topics that do not exist yet; can be raised later, never lowered.")
    ] = DEFAULT_PARTITIONS,
    replication_factor: Annotated[
        int, typer.Option(min=1, help="Of topics that do not exist yet: how many brokers keep a copy.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Make everything that is missing: migrations, your tables, topics, entity types and their queues.

    Changes nothing that is there. Run it after every deployment, any number of times.
    """
    settings, registry, urls = read_environment()
    made = initialise(
        urls,
        registry,
        name=settings.name,
        partitions=partitions,
        replication_factor=replication_factor,
    )
    declared = {entity.name: entity.shards for entity in registry.entities.values()}
    if as_json:
        typer.echo(json.dumps(asdict(made) | {"declared_shards": declared}))
    else:
        typer.echo("\n".join(describe(made, declared)))


def describe(made: Initialised, declared: Mapping[str, int]) -> list[str]:
    """What was made, as lines; a shard count that differs from Postgres's is named."""
    return [
        f"installation: {made.installation}",
        f"tables made: {', '.join(made.tables) or 'none were missing'}",
        f"topics made: {', '.join(made.topics) or 'none were missing'}",
        *(
            f"projection made: {name}, empty; events from now on go into it, `sluice rebuild start {name}`"
            " brings those before"
            for name in made.projections
        ),
        f"entity types: {', '.join(f'{name} ({shards} queues)' for name, shards in made.shards.items())}",
        *(
            f"{name}: the code says {declared[name]} shards, but {shards} count, as Postgres has them"
            for name, shards in made.shards.items()
            if declared[name] != shards
        ),
    ]
