"""The letters of records at lost offsets, for `sluice accept --from`."""

from collections.abc import Mapping

from sluice.db.connection import Session, Statement
from sluice.db.values import bare_array

_FROM = """
    sluice.dead_letters l USING unnest($2, $3) AS d (partition, first_offset)
    WHERE l.topic_id = $1 AND l.partition = d.partition AND l."offset" >= d.first_offset"""
COUNT_OPEN_FROM = Statement(
    "count_open_letters_from",
    f"SELECT count(*) FROM {_FROM.replace('USING', 'CROSS JOIN')} AND l.state IN ('dead', 'waiting')",
    ("text", "int[]", "bigint[]"),
)
DELETE_CLOSED_FROM = Statement(
    "delete_closed_letters_from",
    f"DELETE FROM {_FROM} AND l.state IN ('done', 'dropped')",
    ("text", "int[]", "bigint[]"),
)


def count_open_letters(session: Session, topic_id: str, starts: Mapping[int, int]) -> int:
    """Returns the number of dead or waiting letters at or above an offset. `starts`: partition → offset."""
    ((found,),) = session.run(COUNT_OPEN_FROM, topic_id, bare_array(starts), bare_array(starts.values()))
    return int(found)


def delete_closed_letters(session: Session, topic_id: str, starts: Mapping[int, int]) -> None:
    """Deletes the closed letters at or above an offset. `starts`: partition → offset. Idempotent."""
    session.run(DELETE_CLOSED_FROM, topic_id, bare_array(starts), bare_array(starts.values()))
