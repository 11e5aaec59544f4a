"""Makes an authority and its certificates for local servers, with the command openssl."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sluice.stack.service import ComponentMissing, StackError

VALID_DAYS = 3650
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_TIMEOUT_SECONDS = 60


def make_authority(folder: Path) -> None:
    """Writes `ca.pem` and `ca.key` into the folder."""
    key, certificate = folder / "ca.key", folder / "ca.pem"
    subject = ("-subj", "/CN=Sluice's local authority", "-days", str(VALID_DAYS))
    _openssl("req", "-x509", *_KEY, "-keyout", str(key), "-out", str(certificate), *subject)


def issue(folder: Path, name: str, hosts: Sequence[str] = (), *, valid_days: int = VALID_DAYS) -> None:
    """Writes `NAME.pem` and `NAME.key`, signed by the folder's authority, for the subject CN=NAME.

    `hosts` are alternative names as in `DNS:localhost`. With negative `valid_days` the certificate has
    expired.
    """
    key, request = folder / f"{name}.key", folder / f"{name}.csr"
    names = ("-addext", f"subjectAltName={','.join(hosts)}") if hosts else ()
    _openssl("req", "-new", *_KEY, "-keyout", str(key), "-out", str(request), "-subj", f"/CN={name}", *names)
    authority = ("-CA", str(folder / "ca.pem"), "-CAkey", str(folder / "ca.key"), "-copy_extensions", "copy")
    valid = ("-days", str(valid_days), "-out", str(folder / f"{name}.pem"))
    _openssl("x509", "-req", "-in", str(request), *authority, *valid)
    request.unlink()


def _openssl(*words: str) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise ComponentMissing("a secure stack needs the command openssl; install the package openssl")
    done = subprocess.run(
        [program, *words], capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
    )
    if done.returncode:
        raise StackError(f"openssl {words[0]} failed:\n{done.stderr}")
