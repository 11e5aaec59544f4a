"""The figures in README have the form that the bench writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.contenders import DEBEZIUM, HANDWRITTEN, NAIVE, SLUICE_2
from bench.drain import Missing
from bench.latency import RATES, Latency
from bench.readme_block import (
    BEGIN,
    DRAIN_HEADER,
    END,
    NOT_MEASURED,
    Circumstances,
    block_flaws,
    read_block,
    render_block,
    replace_block,
)
from tests.documents import ROOT
from tests.unit.bench.made import made_drain

README = ROOT / "README.md"
CIRCUMSTANCES = Circumstances("2026-01-31", "1.2.3", 2, 3)


MISSING = Missing(DEBEZIUM.name, "Maven is not installed")


def made_block() -> str:
    drains = [
        made_drain(one, rate, turn=turn, peer=10, postgres=20, kafka=1_000)
        for turn in range(3)
        for one, rate in ((SLUICE_2, 600 + turn), (HANDWRITTEN, 1_000), (NAIVE, 10))
    ]
    latencies = [
        Latency(one.name, rate, 100, 30.4, 90.6, 99, 0.5) for one in (SLUICE_2, HANDWRITTEN) for rate in RATES
    ]
    return render_block(CIRCUMSTANCES, drains, [made_drain(SLUICE_2, 500)], latencies, [MISSING])


def test_the_block_of_readme_has_the_form_that_the_bench_writes() -> None:
    assert block_flaws(read_block(README.read_text())) == []


def test_a_block_shows_medians_ratios_and_guarantees() -> None:
    block = made_block()
    assert block_flaws(block) == []
    assert f"| {SLUICE_2.name} | 601 | 0.60 | 30 | 500 | {SLUICE_2.guarantee} |" in block
    assert f"| {HANDWRITTEN.name} | 1,000 | 1.00 | 30 | – | {HANDWRITTEN.guarantee} |" in block
    assert f"| {DEBEZIUM.name} | not available | – | – | – | Maven is not installed |" in block
    assert f"| {SLUICE_2.name} | 30 | 91 | 30 | 91 |" in block


@pytest.mark.parametrize(
    "flawed",
    [
        "",
        "figures follow",
        made_block().partition("\n\n")[0],
        made_block().replace(" 601 |", ""),
        made_block().replace(DRAIN_HEADER[1], "records/s"),
        made_block().replace("Measured by", "Guessed by"),
        made_block() + "\n\n| one | more |",
        NOT_MEASURED + " Soon.",
    ],
)
def test_another_form_is_found(flawed: str) -> None:
    assert block_flaws(flawed)


@given(before=st.text(), after=st.text(), old=st.text())
def test_only_the_block_is_replaced(before: str, after: str, old: str) -> None:
    text = f"{before}{BEGIN}{old}{END}{after}"
    if text.count(BEGIN) == text.count(END) == 1:
        replaced = replace_block(text, "new")
        assert replaced == f"{before}{BEGIN}\nnew\n{END}{after}"
        assert read_block(replaced) == "new"
        assert replace_block(replaced, "new") == replaced


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_text_without_one_block_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        replace_block(text, "new")
