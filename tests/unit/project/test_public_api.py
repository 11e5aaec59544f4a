"""The public names. Their import loads few packages. Examples and documents import only public modules."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sluice
from sluice import tables
from tests.documents import blocks, documents

ROOT = Path(__file__).parents[3]
PUBLIC_MODULES = {"sluice", "sluice.tables", "sluice.outbox", "sluice.testing"}
NAMES = [
    "Event",
    "handles",
    "projects",
    "effect",
    "Insert",
    "Upsert",
    "Merge",
    "Increment",
    "Delete",
    "Read",
    "Emit",
    "Call",
    "Entity",
    "Topic",
    "Rejected",
    "NotSent",
    "Refused",
    "EVENT",
    "FieldNames",
    "EffectCall",
    "Effect",
    "ProjectionEffect",
    "JsonObject",
    "Row",
    "Version",
    "TableRefused",
    "entity_table",
    "projection_table",
]
EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
MAY_BE_LOADED = {"msgspec", "sluice", "sqlalchemy", "typing_extensions", "greenlet"}


def test_exactly_the_expected_names_are_public() -> None:
    assert sorted(sluice.__all__) == sorted(NAMES)
    assert all(hasattr(sluice, name) for name in NAMES)


def test_the_module_for_tables_also_has_the_filter_for_alembic() -> None:
    assert set(tables.__all__) == {"TableRefused", "entity_table", "projection_table", "include_object"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import sluice", {"sluice"}),
        ("import sluice.pytest_plugin", {"sluice", "_pytest", "pytest"}),
        ("from sluice import *", {"sluice", "sqlalchemy", "msgspec"}),
    ],
)
def test_importing_sluice_loads_sqlalchemy_and_msgspec_only_when_a_name_is_used(
    code: str, expected: set[str]
) -> None:
    # `before` excludes the start-up modules that every program of this environment loads.
    program = (
        f"import sys; before = set(sys.modules); {code};"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if not name.startswith(("_", "cython"))}
    heavy = {"sqlalchemy", "msgspec"} & loaded
    assert heavy == {"sqlalchemy", "msgspec"} & expected
    if "pytest" not in expected:
        assert loaded - sys.stdlib_module_names <= MAY_BE_LOADED


def test_a_name_that_is_not_public_is_not_an_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'sluice' has no attribute 'Celery'"):
        sluice.Celery  # noqa: B018


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_import_only_public_modules(path: Path) -> None:
    assert imported_modules(path.read_text()) <= PUBLIC_MODULES


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_import_only_public_modules(path: Path) -> None:
    found = [imported_modules(block.text) for block in blocks(path) if block.language == "python"]
    assert set().union(*found) <= PUBLIC_MODULES


def imported_modules(code: str) -> set[str]:
    """Returns the modules of Sluice that the code imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                found |= {name.name for name in names}
            case ast.ImportFrom(module=str(module)):
                found.add(module)
    return {name for name in found if name.partition(".")[0] == "sluice"}


def test_the_check_finds_imports_of_other_modules() -> None:
    assert imported_modules("import sluice.tasks.api\nfrom sluice.db import tables") == {
        "sluice.tasks.api",
        "sluice.db",
    }


@pytest.mark.parametrize("folder", ["bridge", "db", "tasks", "worker"])
def test_a_linked_folder_refuses_an_import_by_its_bare_name(folder: str) -> None:
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {folder}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f"ImportError: import this package as sluice.{folder}" in done.stderr
