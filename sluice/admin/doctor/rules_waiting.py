"""The rules of `sluice doctor` about outgoing events, calls and letters that need an operator. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from sluice.admin.doctor.facts import DeclaredFacts, KafkaFacts, LeavingFacts, TopicFacts
from sluice.admin.doctor.findings import Finding, warning
from sluice.db.admin.doctor_facts import EventsWithoutId, NarrowedQueue
from sluice.runtime.terminal_text import counted
from sluice.tasks.fold.topic_names import topic_name_flaw
from sluice.tasks.retention import DAY_SECONDS, kept_seconds


def stopped_problems(leaving: LeavingFacts) -> Iterator[Finding]:
    """Yields a finding if calls are paused, and if entities are parked."""
    if leaving.effects_paused is not None:
        yield warning(
            f"All calls are paused: {leaving.effects_paused}.",
            'Run `sluice effects resume --reason "…"` when the reason no longer applies.',
        )
    if leaving.parked_entities:
        yield warning(
            f"Parked entities: {leaving.parked_entities}; an event of each failed, or an operator paused it.",
            'See `sluice dlq ls`; correct the cause, then run `sluice dlq redrive --all --reason "…"`. Or end'
            ' a pause by `sluice resume --entity ENTITY KEY --reason "…"`.',
        )


def leaving_problems(leaving: LeavingFacts, declared: DeclaredFacts) -> Iterator[Finding]:
    """Yields events and calls that wait for the decision of an operator."""
    if leaving.conflicts:
        yield warning(
            f"Conflicts: {leaving.conflicts}. In a conflict, two different events have one id or version;"
            " Sluice applied the first of them.",
            'See `sluice dlq ls`. If you corrected the code, run `sluice dlq redrive ID --reason "…"`,'
            ' otherwise `sluice dlq resolve ID --reason "…"`.',
        )
    if leaving.refused_records:
        yield warning(
            f"Outgoing records that the broker refuses: {leaving.refused_records}; each holds back its key.",
            'See `sluice outbox ls --refused`; run `sluice outbox retry QUEUE ID --reason "…"` or `sluice'
            ' outbox drop QUEUE ID --reason "…"` for each.',
        )
    if leaving.uncertain_calls:
        yield warning(
            f"Uncertain calls, which may have been made: {leaving.uncertain_calls}.",
            'Ask the provider by `sluice effects reconcile --all --reason "…"`, or settle each by `sluice'
            ' effects settle KEY --as failed --reason "…"` (or `--as succeeded`).',
        )
    if leaving.failed_calls:
        yield warning(
            f"Calls that failed permanently: {leaving.failed_calls}.",
            "List them by `sluice effects ls --state failed`, then run `sluice effects retry --all --state"
            ' failed --reason "…"`.',
        )
    for effect, calls in sorted(leaving.open_calls.items()):
        if effect not in declared.effects:
            yield warning(
                f"Effect {effect} has {counted(calls, 'call that has', 'calls that have')} not succeeded, and"
                " no module declares it.",
                "Add its module to SLUICE_HANDLERS: until then no worker makes them.",
            )


def unsendable_problems(leaving: LeavingFacts, kafka: KafkaFacts) -> Iterator[Finding]:
    """Yields outgoing events that wait for topics that do not exist."""
    for one in leaving.outgoing:
        first = f"{one.events}, the first is {one.queue} {one.id}"
        drop = f'`sluice outbox drop {one.queue} {one.id} --even-if-waiting --reason "…"`'
        flaw = topic_name_flaw(one.topic)
        if flaw is not None:
            yield warning(
                f"Outgoing events that can never be sent: {first}. {flaw}.",
                f"Correct the code that emits them, then drop each: {drop}.",
            )
        elif one.topic in kafka.missing_outgoing:
            yield warning(
                f"Outgoing events wait for topic {one.topic}, which does not exist: {first}.",
                "Create the topic, or add it to outgoing_topics and run `sluice init`; if its name is wrong,"
                f" correct the code and drop each event: {drop}.",
            )


def missing_id_problems(without_id: Sequence[EventsWithoutId], declared: DeclaredFacts) -> Iterator[Finding]:
    """Yields topics whose events are identified by ids, and that have dead letters without an id."""
    for topic, events, letters in without_id:
        mode = declared.dedup.get(topic, "id")
        if letters:
            redrive = f'run `sluice dlq redrive --all --topic {topic} --reason "…"`, or drop them'
            yield warning(
                f"Topic {topic} has {counted(letters, 'dead letter')} without event id; so far it had"
                f" {counted(events, 'event')} without id.",
                f'The topic now declares dedup="{mode}", so it needs no ids: {redrive}.'
                if mode != "id"
                else "Let the producer set an id, and drop these letters. Or, if every record counts"
                " even if it"
                f' repeats another, declare the topic with dedup="position"; then {redrive}.',
            )


def narrowed_problems(narrowed: Sequence[NarrowedQueue]) -> Iterator[Finding]:
    """Yields queues whose batches are small because Postgres answers with errors that no single
    event causes.
    """
    for one in narrowed:
        if one.batch_limit is None:
            continue  # The queue failed, but not yet often.
        reason = (one.error.splitlines() or [""])[0]
        yield warning(
            f"Queue {one.queue} failed often at {one.topic}:{one.partition}:{one.offset}, and applies"
            f" {counted(one.batch_limit, 'event')} at a time; newest failure {one.seconds:.0f} s ago:"
            f" {reason}.",
            "Sluice retries by itself until the cause is removed: see docs/faults.md. Look for a full or slow"
            " server, and for locks of other applications.",
        )


def retention_problems(topics: Mapping[str, TopicFacts], declared: DeclaredFacts) -> Iterator[Finding]:
    """Yields a finding if Kafka keeps records longer than a setting of Sluice assumes."""
    kept = {
        name: kept_seconds(topic.retention_ms, topic.segment_ms)
        for name, topic in sorted(topics.items())
        if topic.cleanup_policy == "delete"
    }
    longer = {
        name: seconds / DAY_SECONDS
        for name, seconds in kept.items()
        if seconds is not None and seconds > declared.keep_identities_days * DAY_SECONDS
    }
    if longer:
        named = ", ".join(f"{name} {days:.0f}" for name, days in longer.items())
        yield warning(
            f"SLUICE_KEEP_IDENTITIES_DAYS is {declared.keep_identities_days}, but topics keep records for"
            f" longer (days, retention.ms and segment.ms together: {named}): Sluice uses the longer time.",
            "Raise the setting if the retention is intended. Otherwise lower retention.ms or segment.ms,"
            " because the identities of events take space for this time.",
        )
