"""Tests which stand-ins `make compose-test IMAGES=local` builds."""

import re

import yaml

from tests.compose.local_images import FILES, names_of_images, pip_configuration, target_of
from tests.compose.project import COMPOSE_FILE, ROOT


def test_the_images_are_those_that_no_file_of_the_project_builds() -> None:
    dockerfile = "FROM python:3 AS first\nFROM first AS second\nFROM other/base:1\nCOPY --from=second /a /a\n"
    services = {
        "built": {"image": "mine:local", "build": "."},
        "same": {"image": "mine:local"},
        "server": {"image": "owner/server:2"},
    }
    assert names_of_images(dockerfile, {"services": services}) == [
        "other/base:1",
        "owner/server:2",
        "python:3",
    ]


def test_each_image_that_an_engine_would_pull_has_a_stand_in() -> None:
    images = names_of_images((ROOT / "Dockerfile").read_text(), yaml.safe_load(COMPOSE_FILE.read_text()))
    targets = re.findall(r"^FROM debian AS (\w+)$", (FILES / "Dockerfile").read_text(), re.MULTILINE)
    assert {target_of(image) for image in images} == set(targets)


def test_the_files_that_a_stand_in_copies_exist() -> None:
    made = {"pip.conf", "certificates.pem", "kafka-jars"}
    copied = re.findall(r"^COPY (.*) \S+$", (FILES / "Dockerfile").read_text(), re.MULTILINE)
    names = {name for words in copied for name in words.split()}
    assert {name for name in names if not (FILES / name).exists()} == made


def test_pip_in_a_build_uses_the_index_of_the_machine_and_no_path_of_the_machine() -> None:
    listed = ":env:.find-links='/wheels'\nglobal.cert='/certs'\nglobal.index-url='http://127.0.0.1/a=b'\n"
    assert pip_configuration(listed) == "[global]\nindex-url = http://127.0.0.1/a=b\n"
