"""`sluice new`: the names of a project, its files and its wheel of Sluice."""

import hashlib
import importlib.metadata
import json
import keyword
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from sluice import __version__
from sluice.cli.main import app
from sluice.project.new_project import (
    MAX_NAME_CHARACTERS,
    Names,
    ProjectRefused,
    create_project,
    names_of,
    render,
)
from sluice.project.wheel import build_wheel, pack_wheel
from sluice.runtime.settings import Settings, variable
from tests.compose.project import CANDIDATES, PASSWORD_NAMES
from tests.unit.project.test_compose import assert_sluice_knows, with_defaults

WHEEL = "sluice_kafka-9.9-py3-none-any.whl"
NAMES = Names("my-shop", "my_shop")


def make_wheel(folder: Path) -> Path:
    wheel = folder / WHEEL
    wheel.write_bytes(b"a wheel")
    return wheel


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("projects") / "my-shop"
    create_project(folder, NAMES, version="9.9", make_wheel=make_wheel)
    return folder


def compose_of(project: Path) -> dict[str, Any]:
    text = (project / "docker-compose.yml").read_text().replace("${SLUICE_HANDLERS:?set it in .env}", "h")
    found: dict[str, Any] = yaml.safe_load(with_defaults(text))
    return found


@given(st.from_regex(r"[a-z0-9_-]{1,42}", fullmatch=True))
def test_every_accepted_name_can_be_imported(name: str) -> None:
    try:
        project, package = names_of(name)
    except ProjectRefused:
        return
    assert project == name
    assert package.isidentifier()
    assert not keyword.iskeyword(package)
    assert package not in sys.stdlib_module_names | {"sluice", "tests"}


@pytest.mark.parametrize("name", ["my-shop", "my_shop", "shop2", "a", "a" * 40])
def test_usual_names_are_accepted(name: str) -> None:
    assert names_of(name) == (name, name.replace("-", "_"))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("My Shop", "use 1 to 40 lower-case letters"),
        ("", "use 1 to 40"),
        ("a" * 41, "use 1 to 40"),
        ("2shop", "begin with a letter"),
        ("shop-", "single hyphens"),
        ("class", "class is a keyword of Python"),
        ("json", "a module called json exists"),
        ("sluice", "a module called sluice exists"),
        ("tests", "a module called tests exists"),
    ],
)
def test_an_invalid_name_is_refused_with_advice(name: str, why: str) -> None:
    with pytest.raises(ProjectRefused, match=why) as caught:
        names_of(name)
    assert "--name" in str(caught.value)


def test_placeholders_are_replaced_and_lines_for_the_wheel_are_kept_only_with_a_wheel() -> None:
    text = "a @project@ @other@\nCOPY vendor . @vendored@\n@package@\n"
    values = {"project": "p-p", "package": "p_p"}
    assert render(text, values, is_vendored=True) == "a p-p @other@\nCOPY vendor .\np_p\n"
    assert render(text, values, is_vendored=False) == "a p-p @other@\np_p\n"


def test_the_files_contain_no_placeholder(project: Path) -> None:
    for path in project.rglob("*"):
        if path.is_file() and path.name not in (WHEEL, "requirements.lock"):
            text = path.read_text()
            left = [
                word for word in ("@project@", "@package@", "@vendored@", "@requirement@") if word in text
            ]
            assert left == [], path


def test_the_wheel_is_pinned_by_its_hash(project: Path) -> None:
    digest = hashlib.sha256(b"a wheel").hexdigest()
    assert (project / "sluice.lock").read_text() == f"./vendor/{WHEEL} --hash=sha256:{digest}\n"
    assert "COPY vendor ./vendor\n" in (project / "Dockerfile").read_text()
    assert "!vendor\n" in (project / ".dockerignore").read_text()


def test_a_project_that_installs_from_the_index_has_no_wheel(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["new", "--from-index", str(tmp_path / "shop-1")])
    assert result.exit_code == 0, result.output
    project = tmp_path / "shop-1"
    assert (project / "sluice.lock").read_text() == f"sluice-kafka=={__version__}\n"
    named = {path.name for path in project.iterdir() if "vendor" in path.name or path.is_symlink()}
    assert named == set()
    texts = [(project / name).read_text() for name in ("Dockerfile", ".dockerignore", "README.md")]
    assert not any("vendor" in text for text in texts)


def test_a_folder_that_is_not_empty_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    result = CliRunner().invoke(app, ["new", "--name", "shop", str(tmp_path)])
    assert (result.exit_code, [path.name for path in tmp_path.iterdir()]) == (2, ["mine"])
    assert f"{tmp_path} exists and is not empty" in result.output


def test_an_empty_folder_is_used_and_a_failure_leaves_it_empty(tmp_path: Path) -> None:
    folder = tmp_path / "parent" / "shop"
    folder.mkdir(parents=True)

    def fail(_: Path) -> Path:
        raise ProjectRefused("no wheel")

    with pytest.raises(ProjectRefused, match="no wheel"):
        create_project(folder, NAMES, version="9.9", make_wheel=fail)
    assert list(folder.iterdir()) == []
    folder.chmod(0o750)
    before = folder.stat()
    create_project(folder, NAMES, version="9.9", make_wheel=make_wheel)
    assert list(folder.parent.iterdir()) == [folder]
    # The folder must not be replaced, because it may be the current folder of the user's shell.
    assert (folder.stat().st_ino, folder.stat().st_mode) == (before.st_ino, before.st_mode)
    assert (folder / "my_shop" / "handlers.py").exists()


def test_the_compose_file_follows_the_specification_and_names_existing_commands(project: Path) -> None:
    path = str(project / "docker-compose.yml")
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    services = compose_of(project)["services"]
    own = {name: one for name, one in services.items() if one["image"] == "my-shop:local"}
    processes = {"bridge", "worker", "relay", "effects-worker", "rebuild-worker", "beat", "flower"}
    assert set(own) == processes | {"migrate"}
    known = {variable(field) for field in Settings.model_fields}
    for name, service in own.items():
        assert service["command"][:2] == ["sluice", "init" if name == "migrate" else name]
        assert_sluice_knows(service["command"][1:])
        assert set(service["environment"]) <= known | {"FLOWER_BASIC_AUTH"}


def test_each_server_and_flower_require_a_password_that_no_command_contains(project: Path) -> None:
    text = (project / "docker-compose.yml").read_text()
    services = compose_of(project)["services"]
    commands = str([one.get("command") for one in services.values()])
    for name in PASSWORD_NAMES:
        assert set(re.findall(rf"(?<!\$)\$\{{{name}(.{{2}})", text)) == {":?"}
        # The shell of the container replaces $$NAME.
        assert name not in commands.replace(f"$${name}", "")
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == "POSTGRES_PASSWORD"
    assert services["worker"]["environment"]["SLUICE_DATABASE_PASSWORD"] == "POSTGRES_PASSWORD"
    assert services["worker"]["environment"]["SLUICE_REDIS_PASSWORD"] == "REDIS_PASSWORD"
    assert services["worker"]["environment"]["SLUICE_KAFKA_PASSWORD"] == "KAFKA_PASSWORD"
    assert "requirepass" in str(services["redis"]["command"])
    assert services["flower"]["environment"]["FLOWER_BASIC_AUTH"] == "admin:FLOWER_PASSWORD"


def test_the_image_copies_existing_files_and_installs_only_pinned_packages(project: Path) -> None:
    dockerfile = (project / "Dockerfile").read_text()
    copied = {
        name for line in re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE) for name in line.split()
    }
    assert {name for name in copied if not (project / name).exists()} == set()
    ignored = (project / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    installs = re.findall(r"pip install .*", dockerfile)
    assert len(installs) == 2
    assert "--require-hashes" in installs[0]
    assert "--no-deps -r sluice.lock" in installs[1]


@pytest.mark.parametrize("name", ["a", "my-shop", "a" * MAX_NAME_CHARACTERS])
def test_the_code_of_a_new_project_has_the_format_that_its_check_requires(tmp_path: Path, name: str) -> None:
    create_project(tmp_path / name, names_of(name), version="9.9", make_wheel=None)
    for check in (["format", "--check"], ["check"]):
        command = [sys.executable, "-m", "ruff", *check, "--no-cache", "."]
        done = subprocess.run(command, cwd=tmp_path / name, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_compose_accepts_the_file(project: Path) -> None:
    commands = [[*words] for words in CANDIDATES if shutil.which(words[0])]
    found = [c for c in commands if subprocess.run([*c, "version"], capture_output=True).returncode == 0]
    if not found:
        pytest.skip("neither `docker compose`, `docker-compose` nor `podman compose` is installed")
    done = subprocess.run(
        [*found[0], "config", "--format", "json"],
        cwd=project,
        env=os.environ | dict.fromkeys(PASSWORD_NAMES, "p@ss word"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    environment = json.loads(done.stdout)["services"]["worker"]["environment"]
    assert environment["SLUICE_HANDLERS"] == "my_shop.handlers"
    assert environment["SLUICE_REDIS_PASSWORD"] == "p@ss word"


def test_the_lock_file_of_projects_agrees_with_the_lock_file_of_sluice() -> None:
    def pins(path: Path) -> set[str]:
        return {line.split()[0] for line in path.read_text().splitlines() if "==" in line and line[0] != " "}

    root = Path(__file__).parents[3]
    ours = pins(root / "sluice/project/template/requirements.lock")
    assert len(ours) > 50
    assert ours <= pins(root / "requirements.lock")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the wheel that is built from this clone."""
    return build_wheel(Path(__file__).parents[3], tmp_path_factory.mktemp("built"))


def install(wheel: Path, folder: Path) -> importlib.metadata.Distribution:
    """Unpacks a wheel as an installer does, and adds files of the installer and of Python."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    (information,) = folder.glob("*.dist-info")
    (information / "INSTALLER").write_text("pip")
    with (information / "RECORD").open("a") as record:
        record.write(f"{information.name}/INSTALLER,,\n../../../bin/sluice,,\n")
        record.write("sluice/__pycache__/cli.cpython-311.pyc,,\n")
    return importlib.metadata.PathDistribution(information)


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def test_an_installation_is_packed_into_a_wheel_equal_to_its_source(built: Path, tmp_path: Path) -> None:
    installed = install(built, tmp_path / "site")
    (tmp_path / "packed").mkdir()
    packed = pack_wheel(installed, tmp_path / "packed")
    assert packed.name == built.name
    assert contents(packed) == contents(built)
    assert "sluice/project/template/package/handlers.py.tmpl" in contents(built)
    first = packed.read_bytes()
    assert pack_wheel(installed, tmp_path / "packed").read_bytes() == first


def test_a_changed_installation_is_not_packed(built: Path, tmp_path: Path) -> None:
    installed = install(built, tmp_path / "site")
    (tmp_path / "site/sluice/outbox.py").write_text("# changed")
    with pytest.raises(ProjectRefused, match=r"sluice/outbox\.py was changed .*--from-index"):
        pack_wheel(installed, tmp_path)
