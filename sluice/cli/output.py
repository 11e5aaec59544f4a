"""Prints for all commands. No other module of sluice/cli writes to a stream, because this module
escapes every value with `shown`.
"""

import io
import shutil
import sys
from typing import Any, TextIO

import typer

from sluice.admin.documents import as_json
from sluice.cli.tables import Table, table_lines
from sluice.runtime.terminal_text import UTF_8, shown, shown_json


def say(*parts: str | Table, err: bool = False) -> None:
    """Prints lines and tables.

    Each text is one line: an end of line in it is shown as an escape. A table has no maximum width if the
    output is not a terminal.
    """
    stream = sys.stderr if err else sys.stdout
    encoding = _encoding(stream)
    width = shutil.get_terminal_size().columns if stream.isatty() else None
    lines: list[str] = []
    for part in parts:
        lines += [part] if isinstance(part, str) else table_lines(part, width=width, encoding=encoding)
    if lines:
        # The lines of a table are escaped already; `shown` is idempotent.
        typer.echo("\n".join(shown(line, encoding) for line in lines), err=err)


def say_document(document: Any) -> None:
    """Prints one JSON document in one line."""
    typer.echo(shown_json(as_json(document), _encoding(sys.stdout)))


def say_record(line: str) -> None:
    """Prints a line of JSON. For a program the line is unchanged, in UTF-8. On a terminal it has escapes."""
    if sys.stdout.isatty():
        line = shown_json(line, _encoding(sys.stdout))
    typer.echo(line.encode())


def say_log(prefix: str, text: str, *, colours: tuple[str, str | None] | None) -> None:
    """Prints a prefix and one line of a log, in these two colours. None means without colours."""
    text = shown(text, _encoding(sys.stdout))
    if colours is not None:
        prefix, text = (
            typer.style(part, fg=colour) for part, colour in zip((prefix, text), colours, strict=True)
        )
    typer.echo(f"{prefix} {text}", color=colours is not None)


def ask(question: str) -> bool:
    """Asks on stderr, because programs may parse stdout as JSON. Returns True for yes."""
    return typer.confirm(shown(question, _encoding(sys.stderr)), err=True)


def print_refusal(refusal: str) -> None:
    """Reports why only commands that read work with this database."""
    only = "only commands that change nothing work, such as `sluice status` and `sluice doctor`"
    say(f"sluice: {refusal}. Until then {only}", err=True)


def replace_unencodable() -> None:
    """Makes the streams print a character that their encoding lacks as an escape, also in texts of
    libraries (help, usage errors).
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _encoding(stream: TextIO) -> str:
    return stream.encoding or UTF_8
