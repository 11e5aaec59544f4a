"""Every code block of the pages names its language, and can be run or parsed."""

import json
import tomllib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.documents import PROJECT_README, ROOT, Block, blocks, blocks_in, documents, pages
from tests.unit.docs.command_lines import MAKEFILE, TEMPLATE_MAKEFILE, WrongCommand, check_script

# `text` is output or a drawing. Tests run or parse the blocks of the other languages.
LANGUAGES = {"python", "sh", "sql", "json", "yaml", "toml", "mermaid", "text"}
DIAGRAMS = {"flowchart", "sequenceDiagram", "stateDiagram-v2", "erDiagram", "classDiagram"}
PROGRAMS = ("sluice ", "make ", "$ ", "python ", "docker ", "celery ")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def parse_json(text: str) -> None:
    """Parses one JSON document, or one document per line."""
    try:
        json.loads(text)
    except json.JSONDecodeError:
        for line in text.splitlines():
            json.loads(line)


def parse_mermaid(text: str) -> None:
    """Checks the kind of the diagram, and that each bracket is closed on the same line."""
    kind = text.split(maxsplit=1)[0]
    if kind not in DIAGRAMS:
        raise ValueError(f"GitHub cannot draw a diagram of kind {kind}")
    for line in text.splitlines():
        for opening, closing in ("[]", "()"):
            if line.count(opening) != line.count(closing):
                raise ValueError(f"a bracket is not closed: {line.strip()}")


class ComposeLoader(yaml.SafeLoader):
    """Also reads the tag `!reset` of compose files, which removes a key."""


ComposeLoader.add_constructor("!reset", lambda _loader, _node: None)

PARSERS: dict[str, Callable[[str], object]] = {
    "json": parse_json,
    "yaml": lambda text: list(yaml.load_all(text, Loader=ComposeLoader)),
    "toml": tomllib.loads,
    "mermaid": parse_mermaid,
}


@pytest.mark.parametrize("page", [*pages(), PROJECT_README], ids=name_of)
def test_each_block_names_its_language(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.place}: write one of {sorted(LANGUAGES)}"


@pytest.mark.parametrize("page", documents(), ids=name_of)
def test_a_block_marked_as_text_contains_no_command(page: Path) -> None:
    for block in blocks(page):
        if block.language == "text":
            assert not [line for line in block.text.splitlines() if line.startswith(PROGRAMS)], block.place


@pytest.mark.parametrize("page", documents(), ids=name_of)
def test_python_blocks_run(page: Path) -> None:
    run_blocks(blocks_in("python", page=page))


def run_blocks(found: list[Block]) -> list[ModuleType]:
    """Runs each block in a new namespace, or in the namespace of the block before. Returns the namespaces."""
    modules: list[ModuleType] = []
    for block in found:
        if block.mark != "continues" or not modules:
            modules.append(ModuleType(block.page.stem))
        exec(compile(block.text, block.place, "exec"), vars(modules[-1]))
    return modules


@pytest.mark.parametrize("language", PARSERS)
def test_data_and_diagrams_parse(language: str) -> None:
    for block in blocks_in(language):
        try:
            PARSERS[language](block.text)
        except Exception as error:
            raise AssertionError(f"{block.place}: {error}") from error


@pytest.mark.parametrize("page", documents(), ids=name_of)
def test_the_commands_of_shell_blocks_exist(page: Path) -> None:
    makefile = TEMPLATE_MAKEFILE if page == PROJECT_README else MAKEFILE
    for block in blocks(page):
        if block.language == "sh":
            try:
                check_script(block.text, makefile=makefile, runs=block.mark != "not run")
            except WrongCommand as error:
                raise AssertionError(f"{block.place}: {error}") from error


def test_blocks_that_do_not_run_are_counted(record_property: Callable[[str, object], None]) -> None:
    found = [block for page in documents() for block in blocks(page)]
    left_out = [block for block in found if block.mark == "not run"]
    languages = Counter(block.language for block in found)
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(languages.items()))
    on_servers = sum(block.mark == "servers" for block in found)
    record_property("note", f"{len(found)} blocks in the documents: {kinds}")
    record_property("note", f"{on_servers} run on servers; these {len(left_out)} do not run:")
    for block in left_out:
        record_property("note", f"  {block.place}: {block.reason}")
    assert languages["python"] >= 5
    assert languages["sh"] >= 3


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("json", '{"a": 1}\n{"a": }'),
        ("yaml", "a: [1"),
        ("toml", "a = "),
        ("mermaid", "flow TD\n a --> b"),
        ("mermaid", "flowchart TD\n a[A --> b"),
    ],
)
def test_the_parsers_refuse_invalid_blocks(language: str, text: str) -> None:
    with pytest.raises((ValueError, yaml.YAMLError)):
        PARSERS[language](text)
