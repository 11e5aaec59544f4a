"""Refuses events without an id in topics that recognise repeated events by their ids."""

from sluice.tasks.api import Topic


class EventIdMissing(Exception):
    """The event has no id, and the topic recognises repeated events by their ids."""


def missing_id_error(topic: Topic) -> EventIdMissing:
    """Returns the error of an event of this topic, with both solutions."""
    return EventIdMissing(
        "the event has no id, so a repeat of it would count as another event; in the producer, set an id"
        f" ({topic.fields.event_id!r} in plain JSON, the header ce_id or the field id of CloudEvents), or"
        f' declare Topic({topic.name!r}, dedup="position") if every record counts, even a repeated one'
    )
