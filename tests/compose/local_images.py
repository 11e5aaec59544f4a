"""Builds stand-ins for the images that the engine would pull, where no registry of images is reached.

It needs root, Debian, Docker and debootstrap: `make compose-test IMAGES=local`. The stand-ins have the names
of the real images. An image of the machine that is not a stand-in is kept and used.
"""

import ast
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from sluice.stack.kafka_jars import cache_folder, fetch_jars
from tests.compose.project import COMPOSE_FILE, ROOT

FILES = Path(__file__).parent / "images"
DEBIAN = "bookworm"
DEBIAN_IMAGE = f"sluice-stand-in/debian:{DEBIAN}"
LABEL = "stand-in"
PIP_OPTIONS = ("index-url", "extra-index-url", "trusted-host", "proxy")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")

_BASE = re.compile(r"^FROM (\S+)(?: AS (\S+))?$", re.MULTILINE)


def names_of_images(dockerfile: str, compose: Mapping[str, Any]) -> list[str]:
    """Returns the images that an engine pulls: those of FROM, and of services that no service builds."""
    found = _BASE.findall(dockerfile)
    stages = {stage for _, stage in found}
    services = compose["services"].values()
    built = {service["image"] for service in services if "build" in service}
    names = {image for image, _ in found} | {service["image"] for service in services}
    return sorted(names - stages - built)


def target_of(image: str) -> str:
    """Returns the target of the stand-ins' Dockerfile: the image's name without owner and tag."""
    return image.partition(":")[0].rpartition("/")[2]


def pip_configuration(listed: str) -> str:
    """Returns the options of PIP_OPTIONS in the output of `pip config list`, as a configuration file."""
    lines = ["[global]"]
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        if (option := name.rpartition(".")[2]) in PIP_OPTIONS:
            lines.append(f"{option} = {ast.literal_eval(value)}")
    return "\n".join([*lines, ""])


def main() -> None:
    """Builds the stand-ins that the machine needs."""
    compose = yaml.safe_load(COMPOSE_FILE.read_text())
    images = names_of_images((ROOT / "Dockerfile").read_text(), compose)
    wanted = [image for image in images if not _is_real(image)]
    if not wanted:
        return
    if _label_of(DEBIAN_IMAGE) is None:
        _build_debian()
    with tempfile.TemporaryDirectory(prefix="sluice-images-") as folder:
        context = Path(folder) / "context"
        shutil.copytree(FILES, context)
        shutil.copyfile(CERTIFICATES, context / "certificates.pem")
        (context / "pip.conf").write_text(_pip_configuration())
        shutil.copytree(fetch_jars(cache_folder({}), print), context / "kafka-jars")
        _build(context, wanted)


def _build(context: Path, images: Iterable[str]) -> None:
    for image in images:
        print(f"building a stand-in for {image}", flush=True)
        options = ["--build-arg", f"DEBIAN={DEBIAN_IMAGE}", "--label", f"{LABEL}=yes"]
        _run("docker", "build", "-q", "-t", image, "--target", target_of(image), *options, str(context))


def _build_debian() -> None:
    print(f"building {DEBIAN_IMAGE} with debootstrap", flush=True)
    with tempfile.TemporaryDirectory(prefix="sluice-debian-") as folder:
        root = Path(folder) / "root"
        _run("debootstrap", "--variant=minbase", DEBIAN, str(root), stdout=subprocess.DEVNULL)
        archive = Path(folder) / "root.tar"
        _run("tar", "-C", str(root), "-cf", str(archive), ".")
        _run("docker", "import", "--change", f"LABEL {LABEL}=yes", str(archive), DEBIAN_IMAGE)


def _is_real(image: str) -> bool:
    return _label_of(image) == ""


def _label_of(image: str) -> str | None:
    """Returns the label of a stand-in, "" for another image, None if the machine does not have the image."""
    template = f'{{{{index .Config.Labels "{LABEL}"}}}}'
    command = ["docker", "image", "inspect", "--format", template, image]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode else done.stdout.strip()


def _pip_configuration() -> str:
    """Returns the index that pip of this machine uses, as a configuration file."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return pip_configuration(listed)


def _run(*command: str, stdout: int | None = None) -> None:
    subprocess.run(command, check=True, stdout=stdout)


if __name__ == "__main__":
    main()
