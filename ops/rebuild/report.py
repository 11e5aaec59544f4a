"""The report of a comparison as one document. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from db.comparing import KINDS, Comparison
from db.generation_deaths import GenerationDeath
from db.generation_lanes import FOLDED


def report_document(
    found: Comparison, passed: Mapping[str, int], deaths: tuple[int, Sequence[GenerationDeath]]
) -> dict[str, Any]:
    """What is stored, and printed with --json: counts, columns, samples, and what the generation left out."""
    return {
        "rows": {kind: found.rows[kind] for kind in ("same", *KINDS)},
        "columns": {
            name: {"differing": found.differing[name], **_sums(found, name)}
            for name in found.differing.keys() | found.sums.keys()
        },
        "samples": found.samples,
        "folded": passed[FOLDED],
        "passed_over": {why: count for why, count in passed.items() if why != FOLDED},
        "died_in_generation": {"count": deaths[0], "first": [death._asdict() for death in deaths[1]]},
    }


def _sums(found: Comparison, name: str) -> dict[str, str]:
    if name not in found.sums:
        return {}
    live, new = found.sums[name]
    return {"sum_live": f"{live:f}", "sum_new": f"{new:f}"}
