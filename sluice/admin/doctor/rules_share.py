"""The rules of `sluice doctor` about an installation that takes a share of the partitions. Pure."""

from collections.abc import Iterator

from sluice.admin.doctor.facts import DeclaredFacts, KafkaFacts
from sluice.admin.doctor.findings import Finding, error, note


def share_problems(declared: DeclaredFacts) -> Iterator[Finding]:
    """Yields what exists once per database, and therefore once per share."""
    if declared.share.is_whole:
        return
    calls = f" ({', '.join(sorted(declared.effects))})" if declared.effects else ""
    yield note(
        f"This database holds the share {declared.share} of the partitions. Two things exist once per"
        " database: rows under another key than the key of the event, and the calls for one value of"
        f" `once=`{calls}.",
        "Add up such rows of all databases when you read them. Let `once=` contain the key of the event, or"
        " let the provider recognise repeated calls. See docs/scaling.md.",
    )


def divided_problems(kafka: KafkaFacts, declared: DeclaredFacts) -> Iterator[Finding]:
    """Yields the declared topics whose partitions the share does not divide."""
    for name in sorted(declared.topics & kafka.topics.keys()):
        flaw = declared.share.flaw(name, kafka.topics[name].partitions)
        if flaw is not None:
            yield error(_sentence(flaw.problem), _sentence(flaw.remedy))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
