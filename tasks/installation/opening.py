"""Reads the installation that a process's database belongs to, before the process does anything else."""

from contextlib import closing

from sluice.db.connection import Session
from sluice.db.delivery.installation import Database, StoredInstallation, read_database, read_installation
from sluice.runtime.installation import InstallationRefused
from sluice.runtime.partition_share import WHOLE, PartitionShare
from sluice.runtime.schema_name import SCHEMA_SETTING
from sluice.runtime.settings import Settings


def open_installation(settings: Settings) -> StoredInstallation:
    """Returns the installation of this process's database. Raises InstallationRefused and psycopg2.Error."""
    url = settings.database_url.get_secret_value()
    with closing(Session(url, application_name="sluice installation")) as session:
        return check_installation(session, name=settings.name, share=settings.share)


def check_installation(session: Session, *, name: str, share: PartitionShare = WHOLE) -> StoredInstallation:
    """Returns the installation of the session's database. Call it outside of a transaction.

    Raises InstallationRefused and psycopg2.Error.
    """
    stored = read_installation(session)
    if stored is None:
        raise InstallationRefused(describe_absent(session.schema))
    return require_installation(stored, read_database(session), name=name, share=share)


def describe_absent(schema: str) -> str:
    """Returns the sentence for a database whose schema has no installation."""
    remedy = f"run `sluice init`, or correct {SCHEMA_SETTING}"
    return f"schema {schema} of the database holds no installation; {remedy}"


def require_installation(
    stored: StoredInstallation, database: Database, *, name: str, share: PartitionShare = WHOLE
) -> StoredInstallation:
    """Returns the installation that a process may use. Raises InstallationRefused."""
    require_name(stored, name)
    require_share(stored, share)
    if database.is_copy_of(stored.database):
        raise InstallationRefused(COPIED)
    return stored


def require_name(stored: StoredInstallation, name: str) -> None:
    """Raises InstallationRefused if the stored installation has another name."""
    if stored.installation.name != name:
        raise InstallationRefused(
            f"SLUICE_NAME is {name}, but the database belongs to the installation"
            f" {stored.installation.name}; set SLUICE_NAME={stored.installation.name}"
            " or use another database"
        )


def require_share(stored: StoredInstallation, share: PartitionShare) -> None:
    """Raises InstallationRefused if the installation was made with another share.

    With another share, an entity would continue in a database that lacks its rows.
    """
    if stored.share != share:
        raise InstallationRefused(
            f"SLUICE_PARTITION_SHARE is {share}, but the installation {stored.installation.group} was made"
            f" with the share {stored.share}, which cannot be changed; set"
            f" SLUICE_PARTITION_SHARE={stored.share}, or make new installations with databases of their own,"
            " which read the topics from the beginning (docs/scaling.md)"
        )


COPIED = (
    "this database is a copy of another database, and both have the same installation id and the same keys:"
    " if the original still exists, run `sluice init --new-installation` here, which makes this database"
    " a separate installation; if the original is gone and this database replaces it, run"
    " `sluice init --moved` here"
)
