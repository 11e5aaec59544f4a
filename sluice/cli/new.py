"""`sluice new`: writes a small project for the user."""

from pathlib import Path
from typing import Annotated

import typer

from sluice import __version__
from sluice.cli.output import say
from sluice.project.new_project import create_project, names_of
from sluice.project.wheel import make_wheel


def new(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder to make. It must be empty or not exist yet.")
    ],
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the project. Default: the name of DIR.")
    ] = None,
    from_index: Annotated[
        bool,
        typer.Option("--from-index", help="Install Sluice from the package index, not from DIR/vendor."),
    ] = False,
) -> None:
    """Write a small project: tables, handlers, their tests, and the files to run them.

    The project has a Makefile, a README, a Dockerfile, a compose file
    and a CI workflow. All packages are pinned by hash. DIR/vendor gets
    a wheel of this Sluice, which the project installs.

    Example: sluice new my-shop
    """
    names = names_of(name or folder.resolve().name)
    make = None if from_index else _make_wheel
    create_project(folder, names, version=__version__, make_wheel=make)
    say(
        f"{folder} is ready. Next:",
        f"  cd {folder}",
        "  make install   # creates .venv with the pinned packages",
        "  make test      # runs the tests, which need no server",
        "  make dev       # starts servers and processes; then see README.md",
    )


def _make_wheel(folder: Path) -> Path:
    say("making the wheel of Sluice", err=True)
    return make_wheel(folder)
