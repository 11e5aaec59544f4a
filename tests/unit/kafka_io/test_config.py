"""Only one module builds Kafka clients, and only that module decides how they connect to the brokers."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kafka
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import KafkaConnectionError, KafkaTimeoutError

from sluice.kafka_io import login_check
from sluice.kafka_io.config import (
    FIRST_BOOTSTRAP_MS,
    build_kafka_python_admin,
    kafka_python_arguments,
    librdkafka_properties,
)
from sluice.runtime.kafka_access import KafkaAccess, setting

PROJECT = Path(__file__).resolve().parents[3]
CONFIG = PROJECT / "sluice" / "kafka_io" / "config.py"
PRODUCTION = ("bridge", "db", "sluice", "tasks", "worker")
LIBRARIES = ("confluent_kafka", "kafka")
CLIENT_NAME = re.compile(r"(Consumer|Producer|Client)$|^\*$")

ACCESS = st.lists(st.from_regex(r"[a-z]{1,8}:[0-9]{1,5}", fullmatch=True), min_size=1, max_size=3).map(
    lambda servers: KafkaAccess(",".join(servers))
)
OPTIONS = st.dictionaries(
    st.from_regex(r"[a-z]+([._][a-z]+){0,3}", fullmatch=True), st.integers() | st.text()
)
MAKERS: tuple[tuple[Callable[[KafkaAccess, Mapping[str, Any]], dict[str, Any]], str], ...] = (
    (librdkafka_properties, "bootstrap.servers"),
    (kafka_python_arguments, "bootstrap_servers"),
)


@pytest.mark.parametrize(("make", "servers"), MAKERS)
@given(access=ACCESS, own=OPTIONS)
def test_options_of_a_client_are_kept_and_do_not_change_the_access(
    make: Callable[[KafkaAccess, Mapping[str, Any]], dict[str, Any]],
    servers: str,
    access: KafkaAccess,
    own: dict[str, Any],
) -> None:
    own.pop(servers, None)
    before = dict(own)
    made = make(access, own)
    assert {name: made[name] for name in own} == before == own
    assert {name: made[name] for name in made.keys() - own.keys()} == make(access, {})


@pytest.mark.parametrize(("make", "servers"), MAKERS)
@given(access=ACCESS, own=OPTIONS)
def test_options_of_a_client_never_override_the_access(
    make: Callable[[KafkaAccess, Mapping[str, Any]], dict[str, Any]],
    servers: str,
    access: KafkaAccess,
    own: dict[str, Any],
) -> None:
    for name in make(access, {}):
        with pytest.raises(ValueError, match=re.escape(name)):
            make(access, {**own, name: "elsewhere:1"})


@given(ACCESS)
def test_both_libraries_connect_to_the_same_servers(access: KafkaAccess) -> None:
    properties, arguments = librdkafka_properties(access, {}), kafka_python_arguments(access, {})
    assert properties["bootstrap.servers"].split(",") == arguments["bootstrap_servers"]


def find_client_uses(source: str) -> Iterator[int]:
    """Yields the lines that import or name a client class of a Kafka library at run time."""
    bound: set[str] = set()
    for node in _run_time_nodes(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and _is_library(node.module or "") and not node.level:
            bound |= {alias.asname or alias.name for alias in node.names}
            if any(CLIENT_NAME.search(alias.name) for alias in node.names):
                yield node.lineno
        elif isinstance(node, ast.Import):
            bound |= {
                alias.asname or alias.name.split(".")[0] for alias in node.names if _is_library(alias.name)
            }
    for node in _run_time_nodes(ast.parse(source)):
        if isinstance(node, ast.Attribute) and CLIENT_NAME.search(node.attr):
            root: ast.expr = node
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in bound:
                yield node.lineno


def _is_library(module: str) -> bool:
    return module.split(".")[0] in LIBRARIES


def _run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yields all nodes except blocks that only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _run_time_nodes(node)


def test_only_the_config_module_builds_clients() -> None:
    files = {path.resolve() for folder in PRODUCTION for path in (PROJECT / folder).rglob("*.py")}
    assert len(files) > 150, "the folders have moved, so this test reads no files"
    uses = {path: list(find_client_uses(path.read_text())) for path in files}
    assert len(uses.pop(CONFIG)) == 6
    assert [f"{path.relative_to(PROJECT)}:{line}" for path in uses for line in uses[path]] == []


@pytest.mark.parametrize(
    "source",
    [
        "from kafka import KafkaConsumer, TopicPartition",
        "from kafka.admin import KafkaAdminClient as Admin",
        "from confluent_kafka import *",
        "def make():\n    from confluent_kafka import Producer as Client",
        "import confluent_kafka.admin\nmake = confluent_kafka.admin.AdminClient",
        "import kafka as k\nk.KafkaProducer()",
        "from confluent_kafka import admin\nadmin.AdminClient({})",
        "if ready:\n    from confluent_kafka import Consumer",
    ],
)
def test_the_check_finds_every_way_to_use_a_client_class(source: str) -> None:
    assert list(find_client_uses(source))


@pytest.mark.parametrize(
    "source",
    [
        "from kafka import TopicPartition\nfrom kafka.errors import KafkaError",
        "from confluent_kafka import KafkaError, KafkaException\nKafkaError._FATAL",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from confluent_kafka import Consumer",
        "from sluice.kafka_io.consumer import Consumer\napp.amqp.Producer()",
    ],
)
def test_names_that_are_not_client_classes_are_allowed(source: str) -> None:
    assert not list(find_client_uses(source))


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import sluice.kafka_io.config", []),
        (
            "import sluice.kafka_io.confluent_consumer, sluice.kafka_io.log_reader, sluice.kafka_io.producer",
            ["confluent_kafka"],
        ),
        ("import sluice.kafka_io.kafka_python_consumer", ["kafka"]),
        ("import sluice.stack", []),
    ],
)
def test_a_process_loads_only_the_library_that_it_uses(statement: str, loaded: list[str]) -> None:
    printed = f"import sys; {statement}; print(sorted({set(LIBRARIES)} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", printed], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(loaded)


class Searching:
    """A client that searches brokers for the given time, and finds them at a longer search or never."""

    searches: list[int]
    finds = True

    def __init__(self, *, bootstrap_timeout_ms: int, **_: object) -> None:
        self.searches.append(bootstrap_timeout_ms)
        if bootstrap_timeout_ms == FIRST_BOOTSTRAP_MS or not self.finds:
            raise KafkaTimeoutError("Unable to bootstrap")


@pytest.fixture
def searching(monkeypatch: pytest.MonkeyPatch) -> type[Searching]:
    monkeypatch.setattr(Searching, "searches", [], raising=False)
    monkeypatch.setattr(kafka, "KafkaAdminClient", Searching)
    return Searching


def test_a_refused_login_ends_the_search_for_a_broker(
    searching: type[Searching], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = f"{setting('username')}: broker:1 refuses this user"
    monkeypatch.setattr(login_check, "find_refusal", lambda _: refusal)
    with pytest.raises(KafkaConnectionError) as raised:
        build_kafka_python_admin(KafkaAccess("broker:1"), bootstrap_timeout_ms=5_000)
    assert login_check.read_sentence(str(raised.value)) == refusal
    with pytest.raises(KafkaConnectionError):
        build_kafka_python_admin(KafkaAccess("broker:1"))
    assert searching.searches == [FIRST_BOOTSTRAP_MS] * 2


def test_a_broker_that_is_away_is_searched_for_the_whole_time(
    searching: type[Searching], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_check, "find_refusal", lambda _: None)
    build_kafka_python_admin(KafkaAccess("broker:1"), bootstrap_timeout_ms=5_000)
    assert sum(searching.searches) == 5_000
    searching.searches.clear()
    monkeypatch.setattr(Searching, "finds", False)
    with pytest.raises(KafkaTimeoutError):
        build_kafka_python_admin(KafkaAccess("broker:1"), bootstrap_timeout_ms=5_000)
    assert sum(searching.searches) == 5_000


def test_a_client_of_kafka_python_searches_a_broker_for_ten_seconds_by_default(
    searching: type[Searching], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(login_check, "find_refusal", lambda _: None)
    monkeypatch.setattr(Searching, "finds", False)
    with pytest.raises(KafkaTimeoutError):
        build_kafka_python_admin(KafkaAccess("broker:1"))
    assert sum(searching.searches) == 10_000


def test_a_probe_searches_one_time_and_finds_no_cause(
    searching: type[Searching], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Searching, "finds", False)
    monkeypatch.setattr(login_check, "find_refusal", lambda _: pytest.fail("the cause was searched"))
    with pytest.raises(KafkaTimeoutError):
        build_kafka_python_admin(KafkaAccess("broker:1"), finds_refusal=False, bootstrap_timeout_ms=5_000)
    assert searching.searches == [5_000]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("KafkaConnectionError: SLUICE_KAFKA_CA_FILE: none", "SLUICE_KAFKA_CA_FILE: none"),
        ("x: the certificate of a:1 has expired; renew it", "the certificate of a:1 has expired; renew it"),
        ("KafkaTimeoutError: Unable to bootstrap", None),
    ],
)
def test_the_sentence_of_a_refusal_is_read_from_an_error(text: str, sentence: str | None) -> None:
    assert login_check.read_sentence(text) == sentence
