"""The rules of `sluice doctor` about other databases and processes that work as this installation. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from sluice.admin.doctor.facts import Facts, ForeignClaim, PostgresFacts
from sluice.admin.doctor.findings import Finding, error, warning
from sluice.db.delivery.living_processes import Process
from sluice.runtime.terminal_text import counted, plural

MAX_CLOCK_OFFSET_SECONDS = 2.0


def installation_problems(facts: Facts) -> Iterator[Finding]:
    """Yields findings about other databases and processes that work as this installation."""
    yield from _foreign_claims(facts.foreign_claims)
    if facts.postgres is not None:
        if facts.members is not None:
            yield from _members(facts.members, facts.postgres)
        yield from _bridges(facts.postgres.bridges)


def _foreign_claims(claims: Sequence[ForeignClaim]) -> Iterator[Finding]:
    if claims:
        age = min(claim.age_seconds for claim in claims)
        yield error(
            f"Another database works as this installation: {len(claims)} of its bridges wrote claims that"
            f" are not in this database, the newest {age} seconds ago.",
            "One of the two is a physical copy (a base backup or a disk snapshot): stop its processes, then"
            " run `sluice init --new-installation` there. After a failover this finding disappears"
            " within minutes.",
        )


def _members(members: Sequence[str | None], postgres: PostgresFacts) -> Iterator[Finding]:
    if postgres.installation is None:
        return
    group = postgres.installation.group
    foreign = [name for name in members if name is None or not name.startswith(f"{group}-")]
    if foreign:
        names = ", ".join(sorted({name or "a member without a static name" for name in foreign}))
        yield error(
            f"The consumer group {group} has {counted(len(foreign), 'foreign member')}: {names}.",
            "Stop them: records of the partitions that Kafka assigns to them are not applied.",
        )
    own, bridges = len(members) - len(foreign), len(postgres.bridges)
    if own > bridges:
        yield warning(
            f"The consumer group {group} has {counted(own, 'member')} with names of this installation,"
            f" but {counted(bridges, 'bridge')} of this database {plural(bridges, 'is', 'are')} alive.",
            "Repeat the check in a minute: a killed bridge stays a member for some seconds. If it remains,"
            " find the bridge that works with a copy of this database.",
        )


def _bridges(bridges: Sequence[Process]) -> Iterator[Finding]:
    for what, declared in (
        ("shards", {_shown(bridge.entities) for bridge in bridges}),
        ("topics", {_shown(bridge.topics) for bridge in bridges}),
    ):
        if len(declared) > 1:
            nodes = ", ".join(sorted({f"{bridge.node} ({bridge.process_id})" for bridge in bridges}))
            yield warning(
                f"The bridges {nodes} declare different {what}: {'; '.join(sorted(declared))}.",
                "Run all bridges with the same SLUICE_HANDLERS. During a rolling deployment this finding"
                " is expected.",
            )


def clock_problems(postgres: PostgresFacts) -> Iterator[Finding]:
    """Yields a finding about processes of this installation whose clocks are wrong.

    Delivery does not depend on these clocks, but displayed ages and times in events do.
    """
    offsets = {
        f"{one.kind} {one.node} ({one.process_id})": one.clock_offset
        for one in postgres.living
        if one.clock_offset is not None
    }
    offsets["this command"] = postgres.clock_offset
    wrong = {name: by for name, by in sorted(offsets.items()) if abs(by) >= MAX_CLOCK_OFFSET_SECONDS}
    if wrong:
        shown = ", ".join(
            f"{name} {abs(by):.1f} s {'ahead' if by > 0 else 'behind'}" for name, by in wrong.items()
        )
        yield warning(
            f"Clocks differ from the clock of Postgres: {shown}.",
            "Synchronise the clocks of these machines by NTP. If all clocks differ by the same time,"
            " synchronise the clock of Postgres."
            " Times in logs are wrong by the same amount; delivery does not depend on these clocks.",
        )


def _shown(declared: Mapping[str, int] | Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(declared.items())) or "none"
