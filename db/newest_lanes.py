"""SQL that reads lanes without the old versions that another session's snapshot keeps. Pure."""

from collections.abc import Mapping


def walk_lanes(table: str, key: Mapping[str, str], source: str) -> str:
    """Returns the recursive CTE `l (lane)`, whose rows are the newest rows of all lanes of some keys.

    `key`: the first columns of the table's index, with their values from the row of `source`. The index
    continues with topic, partition and applied offset. A lane is NULL where the lanes of a key end.

    Each lane is read as the newest entry of the index. The next lane is searched below all entries of this
    lane. A scan would read each old version, and a join would be a nested loop.
    """
    first = " AND ".join(f"o.{column} = {value}" for column, value in key.items())
    same = " AND ".join(f"o.{column} = (l.lane).{column}" for column in key)
    below = f"{same} AND (o.topic, o.partition) < ((l.lane).topic, (l.lane).partition)"
    return f"""l AS (
        SELECT {_newest(table, first)} AS lane {source}
        UNION ALL
        SELECT {_newest(table, below)} FROM l WHERE (l.lane).topic IS NOT NULL
    )"""


def walk_live_lanes(condition: str) -> str:
    """Returns `walk_lanes` over the lanes of the current epoch, of the queues `q` that meet the condition."""
    return walk_lanes(
        "lane_offsets",
        {"queue": "q.queue", "epoch": "e.epoch"},
        f"FROM sluice.queues q JOIN sluice.entities e ON e.entity = q.entity WHERE {condition}",
    )


def _newest(table: str, where: str) -> str:
    return f"""(
        SELECT o FROM sluice.{table} o WHERE {where}
        ORDER BY o.topic DESC, o.partition DESC, o.applied_offset DESC LIMIT 1
    )"""
