"""The authority of a secure stack, the certificates of its servers, and its passwords, in one folder."""

import secrets
from pathlib import Path

from sluice.stack.atomic_folders import made_whole
from sluice.stack.certificates import issue, make_authority
from sluice.stack.ports import LOOPBACK

SERVERS = ("broker", "postgres", "redis")
ADMINISTRATOR = "admin"
"""The name in the certificate of Kafka's administrator, and the administrator of Redis."""
HOSTS = (f"IP:{LOOPBACK}", "DNS:localhost")
PASSWORDS = ("kafka", "postgres", "redis", "redis-admin")


def secure_folder(root: Path) -> Path:
    """Returns the folder of these files in the folder of a stack. Only secure stacks have it."""
    return root / "tls"


def make_secure_files(folder: Path) -> None:
    """Makes the files unless they exist. Only the user of this process may read them. Idempotent.

    Raises ComponentMissing and StackError.
    """
    if folder.is_dir():
        return
    with made_whole(folder) as part:
        make_authority(part)
        for server in SERVERS:
            issue(part, server, HOSTS)
        issue(part, ADMINISTRATOR)
        for name in PASSWORDS:
            file = part / f"{name}.password"
            file.touch(mode=0o600)
            file.write_text(secrets.token_urlsafe(24))


def authority_file(folder: Path) -> Path:
    """Returns the certificate of the authority, which the clients of all servers need."""
    return folder / "ca.pem"


def read_password(folder: Path, name: str) -> str:
    """Returns one of the PASSWORDS."""
    return (folder / f"{name}.password").read_text()
