"""The figures in README: a block between two comments, which the bench replaces. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from bench.contenders import HANDWRITTEN
from bench.drain import Drain, Missing
from bench.floors import own_cpu_us, turn_ratios
from bench.latency import RATES, Latency

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
NOT_MEASURED = "No figures yet. `python -m bench --write-readme` measures them and writes them here."
DRAIN_HEADER = (
    "contender", "events/s", "÷ by hand", "CPU per event, µs", "mixed stream, events/s", "guarantee",
)  # fmt: skip
LATENCY_HEADER = (
    "from send to commit, ms",
    *(f"{percent} at {rate:,}/s" for rate in RATES for percent in ("p50", "p99")),
)


@dataclass(frozen=True)
class Circumstances:
    """The place and time of a run, as README shows them."""

    date: str
    version: str
    cores: int
    rounds: int


def render_block(
    circumstances: Circumstances,
    drains: Sequence[Drain],
    mixed: Sequence[Drain],
    latencies: Sequence[Latency],
    missing: Sequence[Missing] = (),
) -> str:
    """Returns the text between the two comments."""
    one = circumstances
    about = (
        f"Measured by `make bench` on {one.date} with version {one.version}, on {one.cores} cores that also"
        f" ran Kafka, Postgres and Redis. Medians of {one.rounds} rounds. Each result was verified."
    )
    rows = _drain_rows(drains, mixed)
    rows += [(one.contender, "not available", "–", "–", "–", one.reason) for one in missing]
    tables = [about, _table(DRAIN_HEADER, rows)]
    if latencies:
        tables.append(_table(LATENCY_HEADER, _latency_rows(latencies)))
    return "\n\n".join(tables)


def replace_block(text: str, block: str) -> str:
    """Returns the text with this block between the two comments.

    Raises ValueError if the text does not have each comment once.
    """
    before, after = _around(text)
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def read_block(text: str) -> str:
    """Returns the text between the two comments. Raises ValueError as `replace_block` does."""
    before, after = _around(text)
    return text[len(before) + len(BEGIN) : len(text) - len(after) - len(END)].strip("\n")


def block_flaws(block: str) -> list[str]:
    """Returns what `render_block` would not have written; empty for a block without figures, too."""
    if block == NOT_MEASURED:
        return []
    about, *tables = block.split("\n\n")
    flaws = (
        [] if about.startswith("Measured by `make bench` on ") else ["its first line is not that of a run"]
    )
    headers = [DRAIN_HEADER, LATENCY_HEADER][: max(1, len(tables))]
    for table, header in zip(tables, headers, strict=False):
        lines = table.splitlines()
        if lines[:2] != _table(header, []).splitlines():
            flaws.append(f"the header of a table is not {', '.join(header)}")
        flaws += [f"columns: {line}" for line in lines[2:] if len(_cells(line)) != len(header)]
    return flaws if 0 < len(tables) <= len(headers) else [*flaws, f"{len(tables)} tables"]


def _around(text: str) -> tuple[str, str]:
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"README needs exactly one {BEGIN} and after it one {END}")
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]


def _drain_rows(drains: Sequence[Drain], mixed: Sequence[Drain]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name in dict.fromkeys(drain.contender for drain in drains):
        found = [drain for drain in drains if drain.contender == name]
        on_mixed = [drain.per_second for drain in mixed if drain.contender == name]
        ratios = turn_ratios(drains, name, HANDWRITTEN.name)
        rows.append(
            (
                name,
                f"{median(drain.per_second for drain in found):,.0f}",
                f"{median(ratios):.2f}" if ratios else "–",
                f"{median(own_cpu_us(drain) for drain in found):.0f}",
                f"{median(on_mixed):,.0f}" if on_mixed else "–",
                found[0].guarantee,
            )
        )
    return rows


def _latency_rows(latencies: Sequence[Latency]) -> list[tuple[str, ...]]:
    figures = {(one.contender, one.rate): one for one in latencies}
    return [
        (
            name,
            *(f"{value:.0f}" for rate in RATES for value in _percentiles(figures[name, rate])),
        )
        for name in dict.fromkeys(one.contender for one in latencies)
    ]


def _percentiles(latency: Latency) -> tuple[float, float]:
    return latency.p50_ms, latency.p99_ms


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _cells(line: str) -> list[str]:
    return line.strip("|").split("|")
