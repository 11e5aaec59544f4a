"""Provides what every operation needs: a session, the code's declarations, the addresses of the services."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from types import MappingProxyType
from typing import NamedTuple

from sluice.db.connection import BATCH_PLANS, Session
from sluice.runtime.installation import InstallationRefused
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.service_urls import StackUrls, read_addresses
from sluice.runtime.settings import Settings, read_settings
from sluice.tasks.apply.chunks import session_settings
from sluice.tasks.fold.registry import Registry, collect_handlers
from sluice.tasks.installation.opening import check_installation


class Environment(NamedTuple):
    """The settings of this process, the declarations of its handlers, and the addresses of the services."""

    settings: Settings
    registry: Registry
    urls: StackUrls


def read_environment() -> Environment:
    """Reads the environment and imports the handlers. Raises SettingsError or HandlersRefused."""
    settings = read_settings()
    urls = read_addresses(settings)
    return Environment(settings, collect_handlers(settings.handlers), urls)


@contextmanager
def connected(
    name: str,
    *,
    plans: Mapping[str, str] = MappingProxyType({}),
    report_refusal: Callable[[str], object] | None = None,
) -> Iterator[Session]:
    """Yields a session with the application name `name`, on a database of the installation SLUICE_NAME.

    Raises InstallationRefused for any other database, and SettingsError. Commands that only read
    pass `report_refusal`. This function receives the refusal, and the session cannot write. Such
    commands also work on a standby.
    """
    settings = read_settings()
    url = read_addresses(settings).database_url
    # Handlers run in the transactions of the batch plans.
    limits = session_settings(settings.handler_seconds) if plans is BATCH_PLANS else {}
    session = Session(
        url,
        application_name=name,
        plans=plans,
        settings=limits,
        may_be_read_only=report_refusal is not None,
    )
    with closing(session):
        refusal = read_refusal(session, settings.name, settings.share)
        if refusal is not None:
            if report_refusal is None:
                raise InstallationRefused(refusal)
            session.command("SET default_transaction_read_only = on")
            report_refusal(refusal)
        yield session


def read_refusal(session: Session, name: str, share: PartitionShare = WHOLE) -> str | None:
    """Returns why a process with this name and share must not work with this database, None if it may."""
    try:
        check_installation(session, name=name, share=share)
    except InstallationRefused as refused:
        return str(refused)
    return None
