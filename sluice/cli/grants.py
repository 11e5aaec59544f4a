"""`sluice grants`: prints the least rights of a role in Postgres."""

from typing import Annotated

import typer

from sluice.admin.grants import Role, grant_lines
from sluice.cli.output import say
from sluice.runtime.settings import read_schema


def grants(
    purpose: Annotated[Role, typer.Option("--for", help="The process or person that uses the role.")],
    role: Annotated[
        str, typer.Option("--role", metavar="ROLE", help="The role in Postgres; default: sluice_PURPOSE.")
    ] = "",
) -> None:
    """Print SQL that grants a role in Postgres the least rights it needs.

    Changes nothing and needs no server; reads only SLUICE_SCHEMA. The owner of the tables, which runs
    `sluice init`, runs the output. A web application that calls `emit`
    uses `--for emit`; dashboards and reports use `--for reader`.
    Neither may read the key that signs messages.

    Example: sluice grants --for worker --role shop_worker
    """
    say(*grant_lines(purpose, role or f"sluice_{purpose.value}", read_schema()))
