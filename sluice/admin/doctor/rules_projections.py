"""The rules of `sluice doctor` about projections and their generations. Pure."""

from collections.abc import Iterator, Sequence

from sluice.admin.doctor.facts import DeclaredFacts, GenerationFacts
from sluice.admin.doctor.findings import Finding, error, warning

KEPT_DAYS = 7.0  # a generation that is no longer live: time enough to want it back


def projection_problems(generations: Sequence[GenerationFacts], declared: DeclaredFacts) -> Iterator[Finding]:
    """What is missing, failed, or kept up for nobody."""
    live = {one.projection: one for one in generations if one.state == "live"}
    for projection, revision in sorted(declared.revisions.items()):
        if projection not in live:
            yield error(f"Projection {projection} has no generation.", "Run `sluice init`.")
            continue
        begun = any(one.revision == revision for one in generations if one.projection == projection)
        if not begun:
            yield warning(
                f"Projection {projection} is at revision {revision} in code, its live generation was begun"
                f" by revision {live[projection].revision}: rows of before are as that one made them.",
                "`sluice rebuild start` computes them anew, if they are to be.",
            )
    for one in generations:
        name = f"Generation {one.generation} of {one.projection}"
        if one.state == "failed":
            yield warning(
                f"{name} failed: {one.failed_reason}",
                "Correct the cause, `sluice rebuild drop` it, and start another one.",
            )
        elif one.state in ("ready", "retired") and one.idle_days > KEPT_DAYS:
            yield warning(
                f"{name} is {one.state} for {one.idle_days:.0f} days and kept up with every batch.",
                "`sluice rebuild drop` it, if nobody wants it any more.",
            )
