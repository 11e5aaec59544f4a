"""Changes the installation that a database belongs to, in one transaction with a row in `audit`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from sluice.admin.decisions import OperationRefused
from sluice.admin.documents import as_json
from sluice.db.admin.audit import Decision, insert_audits
from sluice.db.admin.installation_admin import (
    hold_leaving,
    insert_key,
    lock_installation,
    replace_installation,
    store_database,
)
from sluice.db.connection import Session
from sluice.db.delivery.installation import StoredInstallation, read_database, read_installation
from sluice.db.delivery.living_processes import ALIVE_SECONDS, Process, read_living
from sluice.db.delivery.switches import set_switch
from sluice.db.sending.calls import EFFECTS_PAUSED
from sluice.runtime.installation import Installation
from sluice.tasks.installation.opening import require_installation, require_name

HELD = "came with a copied database; held by `sluice init --new-installation`"


class Change(StrEnum):
    """What `sluice init` can change about an installation."""

    NEW_INSTALLATION = "new-installation"
    MOVED = "moved"
    NEW_KEY = "new-key"
    ORIGINAL = "original"


@dataclass(frozen=True)
class Changed:
    """The result of a change. `before` and `after` are groups: `<name>-<short id>`."""

    change: Change
    before: str
    after: str
    held_events: int = 0
    held_calls: int = 0
    key_number: int | None = None
    changed: bool = True
    """False if the state was the same before."""


def make_new_installation(session: Session, name: str, decision: Decision) -> Changed:
    """Makes the database a separate installation, with a new id and a new key.

    Stops the outgoing work that was copied: calls are paused, waiting outgoing events become
    refused, and unfinished calls become uncertain. Raises OperationRefused while processes work
    for the former installation.
    """
    database = read_database(session)
    with session.transaction():
        lock_installation(session)
        before = _require_stored(session)
        # No process starts on a detected copy: the rows in `processes` were copied.
        if not database.is_copy_of(before.database):
            require_nothing_runs(before.installation, read_living(session))
        replace_installation(session, name, database)
        held = hold_leaving(session, HELD)
        set_switch(session, EFFECTS_PAUSED, actor=decision.actor, reason=HELD)
        after = _require_stored(session).installation
        changed = Changed(
            Change.NEW_INSTALLATION, before.installation.group, after.group, held.events, held.calls
        )
        _audit(session, decision, changed)
    return changed


def require_nothing_runs(installation: Installation, living: Sequence[Process]) -> None:
    """Raises OperationRefused if one of these processes works for the installation. Pure."""
    if living:
        names = ", ".join(sorted(f"{one.kind} {one.node}" for one in living))
        raise OperationRefused(
            f"processes of {installation.group} use this database: {names}. Stop them first; if they use"
            f" the database from which this database was copied, run the command again {ALIVE_SECONDS} s"
            " after the copy"
        )


def note_move(session: Session, name: str, decision: Decision) -> Changed:
    """Stores that the installation is now in this database, with the same id and keys. Idempotent.

    Raises InstallationRefused if the database belongs to an installation of another name.
    """
    database = read_database(session)
    with session.transaction():
        lock_installation(session)
        stored = _require_stored(session)
        require_name(stored, name)
        group = stored.installation.group
        # Stores the identifier of the server if it could not be read earlier.
        fuller = database.system_identifier is not None and stored.database.system_identifier is None
        is_news = database.is_copy_of(stored.database) or fuller
        changed = Changed(Change.MOVED, group, group, changed=is_news)
        if changed.changed:
            store_database(session, database)
            _audit(session, decision, changed)
    return changed


def add_key(session: Session, name: str, decision: Decision) -> Changed:
    """Creates a key with which all processes sign within seconds. Not idempotent.

    The former key is removed when every running process has read the new key. Raises InstallationRefused.
    """
    database = read_database(session)
    with session.transaction():
        lock_installation(session)
        stored = require_installation(_require_stored(session), database, name=name)
        group = stored.installation.group
        changed = Changed(Change.NEW_KEY, group, group, key_number=insert_key(session))
        _audit(session, decision, changed)
    return changed


CHANGES = {
    Change.NEW_INSTALLATION: make_new_installation,
    Change.MOVED: note_move,
    Change.NEW_KEY: add_key,
}


def _require_stored(session: Session) -> StoredInstallation:
    stored = read_installation(session)
    if stored is None:
        raise OperationRefused("the database holds no installation; run `sluice init` without this option")
    return stored


def _audit(session: Session, decision: Decision, changed: Changed) -> None:
    insert_audits(session, decision, [(changed.after, as_json(asdict(changed)))])
