"""What a process reads before it does anything: the installation that its database belongs to."""

from contextlib import closing

from sluice.db.connection import Session
from sluice.db.delivery.installation import Database, StoredInstallation, read_database, read_installation
from sluice.runtime.installation import InstallationRefused
from sluice.runtime.settings import Settings


def open_installation(settings: Settings) -> StoredInstallation:
    """Returns the installation of this process's database. Raises InstallationRefused and psycopg2.Error."""
    url = settings.database_url.get_secret_value()
    with closing(Session(url, application_name="sluice installation")) as session:
        stored, database = read_installation(session), read_database(session)
    return require_installation(stored, database, name=settings.name)


def require_installation(
    stored: StoredInstallation | None, database: Database, *, name: str
) -> StoredInstallation:
    """Returns the installation that a process named `name` may work for. Raises InstallationRefused."""
    if stored is None:
        raise InstallationRefused("the database holds no installation; run `sluice init`")
    if stored.installation.name != name:
        raise InstallationRefused(
            f"SLUICE_NAME is {name}, but the database belongs to the installation"
            f" {stored.installation.name}; set SLUICE_NAME={stored.installation.name}"
            " or use another database"
        )
    if database.is_copy_of(stored.database):
        raise InstallationRefused(COPIED)
    return stored


COPIED = (
    "this database is a copy of another one, with the id of that installation."
    " If the original still runs, run `sluice init --new-installation`: this database gets an id of its own."
    " If the original is gone, run `sluice init --moved`"
)
