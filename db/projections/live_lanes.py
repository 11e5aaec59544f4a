"""SQL of the lanes of the live generation, and of the offsets of another generation in them. Pure."""

from sluice.db.newest_lanes import walk_live_lanes


def live_lanes(condition: str) -> str:
    """Returns LIVE_LANES that reads no lane unless the condition is true."""
    return f"""{walk_live_lanes(condition)}, live AS (
        SELECT (l.lane).topic, (l.lane).partition, (l.lane).queue, (l.lane).applied_offset FROM l
        JOIN sluice.topics t ON t.topic = (l.lane).topic
    )"""


LIVE_LANES = live_lanes("true")
"""Recursive CTEs, of which `live` has a row per lane of the current epochs, with its newest offset."""


def own_offset(projection: str, generation: str, lane: str) -> str:
    """Returns an expression: the offset of a generation in a lane; NULL if the lane has no row.

    `lane`: a row with topic, partition and queue.
    """
    return f"""(
        SELECT k.applied_offset FROM sluice.generation_offsets k
        WHERE k.projection = {projection} AND k.generation = {generation} AND k.queue = {lane}.queue
          AND k.topic = {lane}.topic AND k.partition = {lane}.partition
        ORDER BY k.applied_offset DESC LIMIT 1
    )"""
