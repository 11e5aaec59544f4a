"""`sluice stack`: starts and stops the local services."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sluice.cli.hints import joined, start_hint
from sluice.cli.output import say, say_document
from sluice.cli.printing import AsJson
from sluice.runtime.service_urls import DATABASE_URL, StackUrls
from sluice.stack import ServiceStatus, Stack, StackError
from sluice.stack.external_urls import UNSET_HINT, external_urls
from sluice.stack.local import DEFAULT_NAME
from sluice.stack.postgres_files import find_psql

ROOT = Path(".sluice/stack")

stack_app = typer.Typer(
    help="Run a local Kafka, Postgres and Redis, on free ports of this machine.", no_args_is_help=True
)


@stack_app.command()
def up(
    secure: Annotated[
        bool,
        typer.Option(
            "--secure",
            help="Start servers with TLS, a login and least rights, with an authority of their own.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start the services that do not run, repair services that were killed, and print the addresses."""
    try:
        stack = Stack(ROOT, report=_say, secure=secure, name=installation_name(os.environ))
        urls = external_urls(os.environ, stack.environ())
        if urls is None:
            urls = stack.up()
            if stack.is_secure:
                _grant_rights(stack)
        else:
            _say(
                f"the environment has the addresses of other services, so no service is started; {UNSET_HINT}"
            )
    except StackError as error:
        _fail(error)
    say_document(_document(urls)) if as_json else say(*_exports(urls))


@stack_app.command()
def env(as_json: AsJson = False) -> None:
    """Print the addresses of the services, as `stack up` does, but start no service.

    Exit code 2 if a service does not run.
    """
    try:
        stack = Stack(ROOT)
        urls = external_urls(os.environ, stack.environ())
        if urls is None:
            if stopped := [one.name for one in stack.status() if one.state == "stopped"]:
                verb = "does" if len(stopped) == 1 else "do"
                raise StackError(f"{joined(stopped)} {verb} not run; {start_hint()}")
            urls = stack.urls()
    except StackError as error:
        _fail(error)
    say_document(_document(urls)) if as_json else say(*_exports(urls))


@stack_app.command()
def down(
    wipe: Annotated[bool, typer.Option("--wipe", help="Also delete the data.")] = False,
) -> None:
    """Stop the services of this stack. Their data stay unless you pass --wipe."""
    try:
        Stack(ROOT, report=_say).down(wipe=wipe)
    except StackError as error:
        _fail(error)


@stack_app.command()
def status(as_json: AsJson = False) -> None:
    """Show which services run, and their addresses. Exit code 1 unless all run."""
    found = Stack(ROOT).status()
    if as_json:
        say_document([{name: _plain(value) for name, value in asdict(one).items()} for one in found])
    else:
        say(*map(_line, found))
    if any(service.state != "running" for service in found):
        raise typer.Exit(1)


@stack_app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context) -> None:
    """Run psql on the database of SLUICE_DATABASE_URL, or else of this stack.

    You may add options of psql.

    Example: sluice stack psql -c "SELECT count(*) FROM orders"
    """
    # Imported here: `make clean` runs this file, perhaps without these packages.
    from sqlalchemy.engine import make_url

    from sluice.runtime.database_url import without_own_options
    from sluice.runtime.secret_files import current_url
    from sluice.runtime.settings import with_secrets

    try:
        named = with_secrets(os.environ).get(DATABASE_URL)
        url = make_url(current_url(named) if named else Stack(ROOT).database_url())
        program = find_psql()
    except StackError as error:
        _fail(error)
    # The password is not an argument: every user of the machine can read those.
    environ = os.environ | ({"PGPASSWORD": str(url.password)} if url.password else {})
    # `URL.set` keeps a password that is replaced by None, and psql prefers the password of the URL.
    plain = without_own_options(url)._replace(drivername="postgresql", password=None).render_as_string()
    os.execve(program, [program, f"--dbname={plain}", *context.args], environ)


def installation_name(environ: Mapping[str, str]) -> str:
    """Returns the name of the installation, which the rights of a secure stack contain."""
    return environ.get("SLUICE_NAME") or DEFAULT_NAME


def _grant_rights(stack: Stack) -> None:
    # Imported here: `make clean` runs this file, perhaps without these packages.
    from sluice.admin.kafka_rights import grant_rights
    from sluice.stack.secure_kafka import USER

    grant_rights(stack.kafka_admin_access(), USER)


def _document(urls: StackUrls) -> dict[str, str]:
    return {name.removeprefix("SLUICE_").lower(): value for name, value in urls.environ().items()}


def _exports(urls: StackUrls) -> list[str]:
    return [f"export {name}={shlex.quote(value)}" for name, value in urls.environ().items()]


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _line(service: ServiceStatus) -> str:
    where = f"port {service.port}, pid {service.pid}, data {service.data_dir}" if service.pid else ""
    return f"{service.name:<9} {service.state:<8} {where}".rstrip()


def _say(line: str) -> None:
    # Not on stdout, which `eval "$(sluice stack up)"` reads.
    say(line, err=True)


def _fail(error: StackError) -> NoReturn:
    # The error of a server that did not start contains several lines of the server's log.
    say(*f"sluice stack: {error}".split("\n"), err=True)
    raise typer.Exit(2)


if __name__ == "__main__":
    # For `make clean`, which must work even if other commands cannot be imported.
    stack_app()
