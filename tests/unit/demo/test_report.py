"""The report of the demo fits into 80 columns and lists every scenario, even a failed scenario."""

import io
import json
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.demo.playing import SCENARIOS, ProgressLog, Scenario, failure_reason, play_all
from tests.demo.report import (
    WIDTH,
    Check,
    Played,
    Words,
    clock,
    count,
    counts,
    differences,
    document,
    duration,
    each,
    ending,
    fields,
    report,
)
from tests.demo.stage import Do, Stage

rows = count("row")
LETTERS = st.text("ab {}.,-_äö[/]", max_size=200)
CHECKS = st.builds(Check, LETTERS, st.integers(), st.integers(), st.just(rows))
PLAYED = st.builds(
    Played,
    st.sampled_from([one.number for one in SCENARIOS]),
    LETTERS,
    st.tuples(LETTERS),
    st.lists(CHECKS, max_size=3).map(tuple),
    st.floats(0, 100_000),
    st.none() | LETTERS,
)


def shown(played: list[Played], seconds: float = 1.0) -> str:
    """Returns the report that `make demo` prints."""
    file = io.StringIO()
    Console(width=WIDTH, markup=False, highlight=False, emoji=False, file=file).print(report(played, seconds))
    return file.getvalue()


@pytest.mark.parametrize(
    ("words", "value", "text"),
    [
        (rows, 0, "no rows"),
        (rows, 1, "1 row"),
        (rows, 6_000, "6,000 rows"),
        (counts, {"duplicate": 500, "applied": 6_000}, "6,000 applied, 500 duplicate"),
        (counts, {}, "none"),
        (fields, {"name": "Grace", "email": None}, "email None, name Grace"),
        (each("capture", "payment"), {1: 60}, "1 capture for each of 60 payments"),
        (each("capture", "payment"), {2: 1, 1: 59}, "1 capture for 59 payments, 2 captures for 1 payment"),
        (each("capture", "payment"), {}, "no payments"),
        (ending, -9, "killed by SIGKILL"),
        (ending, 0, "exit code 0"),
        (ending, None, "it still runs"),
        (differences, [], "no difference"),
        (differences, ["a", "b", "c", "d", "e"], "5 differences: a; b; c; and 2 more"),
    ],
)
def test_a_value_is_shown_in_words_with_its_unit(words: Words, value: Any, text: str) -> None:
    assert words(value) == text


@pytest.mark.parametrize(("seconds", "text", "short"), [(41.4, "41 s", "0:41"), (161, "2 min 41 s", "2:41")])
def test_a_duration_is_printed_in_words_and_as_a_clock(seconds: float, text: str, short: str) -> None:
    assert (duration(seconds), clock(seconds)) == (text, short)


def test_a_check_holds_only_if_the_found_value_equals_the_expected_value() -> None:
    assert Check("{} are there.", 3, 3, rows).ok
    assert not Check("{} are there.", 3, 4, rows).ok
    assert Check("{} are there.", 3, 4, rows).must_text() == "3 rows are there."


@given(st.lists(PLAYED, max_size=3), st.floats(0, 100_000))
def test_the_report_fits_into_the_width_and_its_document_has_the_result(
    played: list[Played], seconds: float
) -> None:
    lines = shown(played, seconds).splitlines()
    assert all(len(line) <= WIDTH for line in lines)
    assert json.loads(json.dumps(document(played, seconds)))["ok"] == all(one.ok for one in played)


def test_a_failed_scenario_is_shown_with_its_reason_and_counted_in_the_summary() -> None:
    good, bad = Check("{}.", 1, 1, rows), Check("{}.", 1, 2, rows)
    text = " ".join(
        shown(
            [
                Played("1a", "Twice", ("It is sent twice.",), (good, bad), 5),
                Played("3", "Apart", ("Kafka stops.",), (good,), 9, "not within 60 s: orders wait"),
                Played("4", "Late", (), (good,), 1),
            ],
            161,
        ).split()
    )
    assert "Done: It is sent twice." in text
    assert "FAILED 1 row. 2 rows" in text
    assert "FAILED The scenario reaches its last check. not within 60 s: orders wait" in text
    assert "3 of 4 checks hold in 3 scenarios, 2 min 41 s. Failed: 1a, 3." in text


class Recorder:
    """A stage without servers, which counts its recoveries."""

    def __init__(self, do: Do) -> None:
        self.do = do
        self.recovered = 0

    def recover(self) -> None:
        self.recovered += 1


def play(*scenarios: Scenario) -> tuple[list[Played], list[Recorder]]:
    played: list[Played] = []
    stages: list[Recorder] = []

    def make_stage(do: Do) -> Stage:
        stages.append(Recorder(do))
        return cast(Stage, stages[-1])

    with ProgressLog() as progress:
        play_all(scenarios, make_stage, progress, played)
    return played, stages


def holding(stage: Stage) -> Iterator[Check]:
    stage.do("It is done.")
    yield Check("{}.", 1, 1, rows)


def not_settling(stage: Stage) -> Iterator[Check]:
    yield from holding(stage)
    raise TimeoutError("not within 60 s: it settles\n--- worker\nits log")


def test_a_scenario_that_does_not_settle_is_reported_and_the_other_scenarios_run() -> None:
    played, stages = play(Scenario("1", "one", not_settling), Scenario("2", "two", holding))
    assert [(one.number, one.ok, len(one.checks)) for one in played] == [("1", False, 1), ("2", True, 1)]
    assert played[0].reason == "not within 60 s: it settles"
    assert played[1].done == ("It is done.",)
    assert [stage.recovered for stage in stages] == [1, 0]


def test_an_interrupted_scenario_is_reported_and_ends_the_demo() -> None:
    def interrupted(stage: Stage) -> Iterator[Check]:
        yield from holding(stage)
        raise KeyboardInterrupt

    played: list[Played] = []
    with ProgressLog() as progress, pytest.raises(KeyboardInterrupt):
        play_all(
            [Scenario("1", "one", interrupted), Scenario("2", "two", holding)],
            lambda do: cast(Stage, Recorder(do)),
            progress,
            played,
        )
    assert [(one.number, one.reason) for one in played] == [("1", "interrupted")]


def test_an_error_without_text_is_reported_by_its_type() -> None:
    assert failure_reason(KeyError()) == "KeyError"


def test_the_fast_demo_runs_four_failures_and_compares_all_data() -> None:
    fast = [one.number for one in SCENARIOS if one.in_fast]
    assert len(fast) == 5
    assert fast[-1] == "all"
