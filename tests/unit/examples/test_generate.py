"""The command that generates events of the shop. It prints lines that `sluice send -` reads."""

import subprocess
import sys

import pytest

from examples.shop.generate import KINDS, generate, main
from sluice.admin.event_lines import Outgoing, parse_lines

COMMAND = [sys.executable, "-m", "examples.shop.generate"]


def records(printed: str) -> list[Outgoing]:
    topics = frozenset({made.topic for kind in KINDS for made in generate(kind, count=1, seed=1)} | {"other"})
    return list(parse_lines(printed.encode().splitlines(), topic=None, known_topics=topics))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_of_event_is_printed_as_lines_that_send_reads(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([kind, "--count", "30", "--seed", "7", "--keys", "3"]) == 0
    found = records(capsys.readouterr().out)
    made = list(generate(kind, count=30, seed=7, keys=3))
    assert [(one.topic, one.key) for one in found] == [(one.topic, one.key.encode()) for one in made]
    assert all(one.value for one in found)


def test_the_topic_can_be_replaced(capsys: pytest.CaptureFixture[str]) -> None:
    main(["payments", "--count", "2", "--topic", "other"])
    assert {one.topic for one in records(capsys.readouterr().out)} == {"other"}


def test_a_reader_that_closes_the_pipe_ends_the_command_cleanly() -> None:
    command = [*COMMAND, "payments", "--count", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline().startswith(b"{")
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == 0


@pytest.mark.parametrize("words", [["nope"], ["users", "--count", "0"], ["users", "--keys", "0"], []])
def test_invalid_arguments_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(words)
    assert refused.value.code == 2
    assert capsys.readouterr().out == ""


def test_the_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "| sluice send -" in capsys.readouterr().out
