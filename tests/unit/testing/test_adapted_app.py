"""The module for one run on real servers: the original handlers, with other topics and effects."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from examples.shop import handlers
from sluice import Effect, EffectCall, Event, handles
from sluice.tasks.fold.registry import collect_modules
from sluice.testing.servers.adapted_app import adapted, read_journal

SHOP = "examples.shop.handlers"


def made(modules: list[str], journal: Path) -> ModuleType:
    module = ModuleType("made")
    vars(module).update(adapted(modules, suffix="-x", journal=str(journal)))
    return module


def test_handlers_keep_their_names_and_topic_names_get_the_suffix(tmp_path: Path) -> None:
    plain, other = collect_modules([handlers]), collect_modules([made([SHOP], tmp_path / "calls")])
    assert set(other.topics) == {f"{name}-x" for name in plain.topics}
    assert other.outgoing_topics == plain.outgoing_topics
    assert {kind: [e.name for e in of] for kind, of in other.handlers.items()} == {
        kind: [e.name for e in of] for kind, of in plain.handlers.items()
    }
    assert other.revisions == plain.revisions
    assert set(other.tables) == set(plain.tables)


def test_calls_are_written_to_the_journal_and_not_made(tmp_path: Path) -> None:
    registry = collect_modules([made([SHOP], tmp_path / "calls")])
    for number in range(2):
        registry.effects["send_email"].function(EffectCall(f"send_email:{number}", {}, 1))
    assert read_journal(tmp_path / "calls") == ["send_email:0", "send_email:1"]
    assert read_journal(tmp_path / "nothing") == []
    declared = registry.effects["capture_payment"].declaration
    assert (declared.on_unknown, declared.attempts, declared.reconcile) == ("retry", 8, None)


@handles("narrow", topic="orders")
def narrowed(event: Event[dict[str, Any]]) -> Iterator[Effect]:
    yield from ()


topics = tuple(topic for topic in handlers.topics if topic.name == "orders")


def test_a_handler_of_one_topic_handles_the_topic_of_the_run(tmp_path: Path) -> None:
    registry = collect_modules([made([__name__], tmp_path / "calls")])
    [entry] = registry.handlers["narrow"]
    assert entry.topics == ("orders-x",)
    assert entry.name == f"{__name__}.narrowed"
    assert collect_modules([sys.modules[__name__]]).handlers["narrow"][0].topics == ("orders",), (
        "the original module is unchanged"
    )


def test_modules_that_need_servers_are_imported_at_their_first_use() -> None:
    program = (
        "import sys, sluice.testing; before = set(sys.modules); sluice.testing.assert_crash_safe;"
        "print('psycopg2' in before, 'kafka' in before, 'kafka' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True"]
