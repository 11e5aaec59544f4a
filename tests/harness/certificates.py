"""Certificates for servers with TLS, made by the program openssl."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from sluice.stack import ComponentMissing


@dataclass(frozen=True)
class Certificate:
    """The files of a certificate and its key, in PEM."""

    certificate: Path
    key: Path


class Authority:
    """A certificate authority of its own, in a folder."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            raise ComponentMissing("no openssl found: install it (Debian: apt install openssl)")
        self._folder = folder
        folder.mkdir(parents=True)
        self._ca = Certificate(folder / "ca.pem", folder / "ca.key")
        self._make(self._ca, "-subj", "/CN=Test authority")

    @property
    def file(self) -> Path:
        """The file with the authority's certificate."""
        return self._ca.certificate

    def issue(self, name: str, *, host: str) -> Certificate:
        """Returns a certificate for a host name."""
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        ca = ("-CA", str(self._ca.certificate), "-CAkey", str(self._ca.key))
        self._make(made, "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{host}", *ca)
        return made

    def _make(self, made: Certificate, *options: str) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc", "-days", "30")
        files = ("-keyout", str(made.key), "-out", str(made.certificate))
        words = ["openssl", "req", "-x509", *key, *files, *options]
        subprocess.run(words, check=True, capture_output=True)
